// Sixteen lanes of arithmetic, whatever the processor has.
//
// GCC's vector types have operators, which compile to the processor's instructions. With AVX-512 a register holds
// sixteen lanes; elsewhere they are two halves, since GCC takes vectors that no register holds through memory. What has
// no operator, the dot product of bytes and the multiply-add with one rounding, is an intrinsic.
#pragma once

#include <cstdint>

namespace qvision {

constexpr int64_t kLanes = 16;

}  // namespace qvision

#ifdef __AVX512F__
#include "simd_whole.h"
#else
#include "simd_halves.h"
#endif

// Sixteen lanes of arithmetic, whatever the processor has.
//
// GCC's vector types have operators, which compile to AVX-512, AVX2, NEON or plain instructions. What has no operator,
// the dot product of bytes and the multiply-add with one rounding, is an intrinsic here, with a portable fallback.
#pragma once

#include <cstdint>
#include <cstring>
#ifdef __x86_64__
#include <immintrin.h>
#endif

namespace qvision {

constexpr int64_t kLanes = 16;

typedef int32_t Int32x16 __attribute__((vector_size(64)));
typedef uint32_t UInt32x16 __attribute__((vector_size(64)));
typedef float Float32x16 __attribute__((vector_size(64)));
typedef uint8_t UInt8x64 __attribute__((vector_size(64)));
typedef uint16_t UInt16x16 __attribute__((vector_size(32)));
typedef float UnalignedFloat32x16 __attribute__((vector_size(64), aligned(4)));

inline Float32x16 load(const float* from) {
  return *reinterpret_cast<const UnalignedFloat32x16*>(from);
}

inline void store(float* to, Float32x16 value) {
  *reinterpret_cast<UnalignedFloat32x16*>(to) = value;
}

// bfloat16 is the upper half of a float.
inline Float32x16 load_bfloat16(const uint16_t* from) {
  const UInt16x16 upper_halves = *reinterpret_cast<const UInt16x16*>(from);
  return (Float32x16)(__builtin_convertvector(upper_halves, UInt32x16) << 16);
}

inline Float32x16 to_float(Int32x16 value) {
  return __builtin_convertvector(value, Float32x16);
}

// a * b + c, rounded once, so that the value is the same in every function that computes it.
inline Float32x16 multiply_add(Float32x16 a, Float32x16 b, Float32x16 c) {
#ifdef __AVX512F__
  return (Float32x16)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#else
  return a * b + c;
#endif
}

// sum[n] += weights[4n .. 4n+3] . inputs[0 .. 3], for sixteen outputs n.
inline Int32x16 add_dot_products(Int32x16 sum, UInt8x64 weights, const int8_t* inputs) {
#ifdef __AVX512VNNI__
  int32_t four_inputs;
  std::memcpy(&four_inputs, inputs, 4);
  return (Int32x16)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)weights, _mm512_set1_epi32(four_inputs));
#else
  for (int n = 0; n < kLanes; n++) {
    const int i = 4 * n;
    sum[n] +=
        weights[i] * inputs[0] + weights[i + 1] * inputs[1] + weights[i + 2] * inputs[2] + weights[i + 3] * inputs[3];
  }
  return sum;
#endif
}

}  // namespace qvision

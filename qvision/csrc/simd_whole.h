// Sixteen lanes in one register (AVX-512), for simd.h.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace qvision {

constexpr bool kManyRegisters = true;  // 32

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
  return (Float32x16)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}

inline UInt8x64 upper_nibbles(UInt8x64 bytes) {
  return (UInt8x64)((UInt32x16)bytes >> 4) & 15;
}

// Codes of kBits as the dot product takes them: unsigned, as they are. A weight of zero has the code kZeroCode.
template <int kBits>
constexpr int32_t kZeroCode = 1 << (kBits - 1);

template <int kBits>
inline UInt8x64 as_factors(UInt8x64 codes) {
  return codes;
}

// sum[n] += factors[4n .. 4n+3] . inputs[0 .. 3], for sixteen outputs n.
template <int kBits>
inline Int32x16 add_dot_products(Int32x16 sum, UInt8x64 factors, const int8_t* inputs) {
  int32_t four_inputs;
  std::memcpy(&four_inputs, inputs, 4);
  const __m512i repeated = _mm512_set1_epi32(four_inputs);
#ifdef __AVX512VNNI__
  return (Int32x16)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)factors, repeated);
#else
  // Sixteen-bit sums of two products would overflow with codes of 8 bits: even and odd inputs one after the other.
  const __m512i low_bytes = _mm512_set1_epi16(255);
  const __m512i even = _mm512_madd_epi16(_mm512_and_si512((__m512i)factors, low_bytes),
                                         _mm512_srai_epi16(_mm512_slli_epi16(repeated, 8), 8));
  const __m512i odd = _mm512_madd_epi16(_mm512_srli_epi16((__m512i)factors, 8), _mm512_srai_epi16(repeated, 8));
  return sum + (Int32x16)even + (Int32x16)odd;
#endif
}

}  // namespace qvision

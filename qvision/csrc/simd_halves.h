// Sixteen lanes in two halves (AVX2, or whatever GCC makes of vectors of 32 bytes), for simd.h.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace qvision {

constexpr bool kManyRegisters = false;  // sixteen

// Two halves with the operators of a vector, whose elements are of type Lane.
template <typename Half, typename Lane>
struct Pair {
  Half low;
  Half high;

  friend Pair operator+(Pair a, Pair b) {
    return {a.low + b.low, a.high + b.high};
  }
  friend Pair operator+(Pair a, Lane b) {
    return {a.low + b, a.high + b};
  }
  friend Pair operator-(Pair a, Lane b) {
    return {a.low - b, a.high - b};
  }
  friend Pair operator*(Pair a, Pair b) {
    return {a.low * b.low, a.high * b.high};
  }
  friend Pair operator*(Lane a, Pair b) {
    return {a * b.low, a * b.high};
  }
  friend Pair operator&(Pair a, Lane b) {
    return {a.low & b, a.high & b};
  }
  friend Pair operator^(Pair a, Lane b) {
    return {a.low ^ b, a.high ^ b};
  }
  Pair& operator+=(Pair b) {
    return *this = *this + b;
  }
};

typedef int32_t Int32x8 __attribute__((vector_size(32)));
typedef uint32_t UInt32x8 __attribute__((vector_size(32)));
typedef float Float32x8 __attribute__((vector_size(32)));
typedef uint8_t UInt8x32 __attribute__((vector_size(32)));
typedef uint16_t UInt16x8 __attribute__((vector_size(16)));
typedef float UnalignedFloat32x8 __attribute__((vector_size(32), aligned(4)));

typedef Pair<Int32x8, int32_t> Int32x16;
typedef Pair<Float32x8, float> Float32x16;
typedef Pair<UInt8x32, uint8_t> UInt8x64;

inline Float32x16 load(const float* from) {
  return {*reinterpret_cast<const UnalignedFloat32x8*>(from), *reinterpret_cast<const UnalignedFloat32x8*>(from + 8)};
}

inline void store(float* to, Float32x16 value) {
  *reinterpret_cast<UnalignedFloat32x8*>(to) = value.low;
  *reinterpret_cast<UnalignedFloat32x8*>(to + 8) = value.high;
}

// bfloat16 is the upper half of a float.
inline Float32x16 load_bfloat16(const uint16_t* from) {
  const UInt16x8* upper_halves = reinterpret_cast<const UInt16x8*>(from);
  return {(Float32x8)(__builtin_convertvector(upper_halves[0], UInt32x8) << 16),
          (Float32x8)(__builtin_convertvector(upper_halves[1], UInt32x8) << 16)};
}

inline Float32x16 to_float(Int32x16 value) {
  return {__builtin_convertvector(value.low, Float32x8), __builtin_convertvector(value.high, Float32x8)};
}

inline Float32x8 multiply_add(Float32x8 a, Float32x8 b, Float32x8 c) {
#ifdef __FMA__
  return (Float32x8)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  for (int n = 0; n < kLanes / 2; n++) {
    c[n] = std::fma(a[n], b[n], c[n]);
  }
  return c;
#endif
}

// a * b + c, rounded once, so that the value is the same in every function that computes it.
inline Float32x16 multiply_add(Float32x16 a, Float32x16 b, Float32x16 c) {
  return {multiply_add(a.low, b.low, c.low), multiply_add(a.high, b.high, c.high)};
}

inline UInt8x64 upper_nibbles(UInt8x64 bytes) {
  const UInt8x64 shifted = {(UInt8x32)((UInt32x8)bytes.low >> 4), (UInt8x32)((UInt32x8)bytes.high >> 4)};
  return shifted & 15;
}

// Codes of kBits as the dot product takes them. AVX-VNNI wants them without a sign, as they are; without it those of 8
// bits become signed. A weight of zero has the code kZeroCode then.
#ifdef __AVXVNNI__
constexpr bool kTakesSigned = false;
#else
constexpr bool kTakesSigned = true;
#endif

template <int kBits>
constexpr int32_t kZeroCode = kBits == 8 && kTakesSigned ? 0 : 1 << (kBits - 1);

template <int kBits>
inline UInt8x64 as_factors(UInt8x64 codes) {
  return kBits == 8 && kTakesSigned ? codes ^ 128 : codes;
}

// sum[n] += factors[4n .. 4n+3] . inputs[0 .. 3], for eight outputs n.
template <int kBits>
inline Int32x8 add_dot_products(Int32x8 sum, UInt8x32 factors, const int8_t* inputs) {
#ifdef __AVX2__
  int32_t four_inputs;
  std::memcpy(&four_inputs, inputs, 4);
  __m256i right = _mm256_set1_epi32(four_inputs);
  __m256i left = (__m256i)factors;
#ifdef __AVXVNNI__
  return (Int32x8)_mm256_dpbusd_avx_epi32((__m256i)sum, left, right);
#else
  // Sixteen-bit sums of two products, which cannot overflow: 2 * 128 * 127 < 2^15. The instruction takes one factor
  // without a sign, so the sign of signed factors goes to the inputs.
  if (kBits == 8) {
    right = _mm256_sign_epi8(right, left);
    left = _mm256_abs_epi8(left);
  }
  return sum + (Int32x8)_mm256_madd_epi16(_mm256_maddubs_epi16(left, right), _mm256_set1_epi16(1));
#endif
#else
  for (int n = 0; n < kLanes / 2; n++) {
    for (int i = 0; i < 4; i++) {
      const int factor = kBits == 8 ? static_cast<int8_t>(factors[4 * n + i]) : factors[4 * n + i];
      sum[n] += factor * inputs[i];
    }
  }
  return sum;
#endif
}

// The same for sixteen outputs.
template <int kBits>
inline Int32x16 add_dot_products(Int32x16 sum, UInt8x64 factors, const int8_t* inputs) {
  return {add_dot_products<kBits>(sum.low, factors.low, inputs),
          add_dot_products<kBits>(sum.high, factors.high, inputs)};
}

}  // namespace qvision

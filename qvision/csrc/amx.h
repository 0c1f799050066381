// The processor's matrix unit (AMX), on Intel processors from 2023 on: sixteen rows times 64 inputs of sixteen outputs
// in one instruction.
#pragma once

#ifdef __AMX_INT8__

#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>

#include "simd.h"

namespace qvision::amx {

constexpr int64_t kTileRows = 16;
constexpr int64_t kTileBytes = 64;  // of a tile's row: 64 inputs of a row of activations

// Linux grants the tiles, whose state is large, only to processes that ask for them.
inline bool request_tiles() {
  constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr int kTileData = 18;               // XFEATURE_XTILEDATA
  static const bool granted = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return granted;
}

// The layout that the LDTILECFG instruction reads.
struct alignas(64) TileConfiguration {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t bytes_per_row[16] = {};
  uint8_t rows[16] = {};
};

// Tiles 0 to 3 are sums, 4 and 5 rows of activations, 6 and 7 weights of two panels. For few rows the first six are
// lower, which takes less time. To be released by the thread that configured them.
inline void configure_tiles(int64_t num_rows) {
  TileConfiguration configuration;
  for (int tile = 0; tile < 8; tile++) {
    configuration.bytes_per_row[tile] = kTileBytes;
    configuration.rows[tile] = tile < 6 ? std::min(kTileRows, num_rows) : kTileRows;
  }
  _tile_loadconfig(&configuration);
}

inline void release_tiles() {
  _tile_release();
}

// sums[0] and sums[1]: sixteen rows times the left and the right panel; with kMoreRows sums[2] and sums[3]: the next
// sixteen rows. Both panels and rows have `width` inputs, a multiple of 64. `prefetch` fetches the two panels behind
// these into the second-level cache meanwhile.
template <bool kMoreRows>
inline void multiply_tiles(const uint8_t* left, const uint8_t* right, const int8_t* rows, int64_t width, bool prefetch,
                           Int32x16 (&sums)[4][kTileRows]) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t input = 0; input < width; input += kTileBytes) {
    if (prefetch) {
      const uint8_t* next = left + 2 * kTileRows * width + 2 * kTileRows * input;
#pragma GCC unroll 32
      for (int line = 0; line < 32; line++) {
        __builtin_prefetch(next + 64 * line, 0, 2);
      }
    }
    _tile_loadd(6, left + kTileRows * input, kTileBytes);
    _tile_loadd(7, right + kTileRows * input, kTileBytes);
    _tile_loadd(4, rows + input, width);
    _tile_dpbsud(0, 4, 6);
    _tile_dpbsud(1, 4, 7);
    if (kMoreRows) {
      _tile_loadd(5, rows + kTileRows * width + input, width);
      _tile_dpbsud(2, 5, 6);
      _tile_dpbsud(3, 5, 7);
    }
  }
  _tile_stored(0, sums[0], kTileBytes);
  _tile_stored(1, sums[1], kTileBytes);
  if (kMoreRows) {
    _tile_stored(2, sums[2], kTileBytes);
    _tile_stored(3, sums[3], kTileBytes);
  }
}

}  // namespace qvision::amx

#endif  // __AMX_INT8__

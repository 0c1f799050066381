#include "linear.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "amx.h"
#include "simd.h"

namespace qvision {

Linear::Linear(at::Tensor codes_, at::Tensor scales_, at::Tensor bias_)
    : codes(std::move(codes_)),
      scales(std::move(scales_)),
      bias(std::move(bias_)),
      code_data(codes.data_ptr<uint8_t>()),
      scale_data(reinterpret_cast<const uint16_t*>(scales.data_ptr())),
      bias_data(bias.data_ptr<float>()),
      out_features(bias.numel()),
      in_features(32 * codes.size(1)),
      num_panels(scales.size(0)),
      num_groups(scales.size(1)),
      bits(codes.size(2)),
      has_floats(bits >= 16) {}

InputRows::InputRows(int64_t num_rows, const Linear& layer)
    : num_rows(num_rows),
      width(layer.in_features),
      num_groups(layer.num_groups),
      floats(layer.has_floats ? num_rows * width : 0),
      values(layer.has_floats ? 0 : (num_rows + 31) / 32 * 32 * width),
      steps(num_rows, 1),
      group_sums(num_rows * num_groups) {}

void InputRows::set_row(int64_t row, const float* activations, int64_t length) {
  if (!floats.empty()) {
    std::copy_n(activations, length, &floats[row * width]);
    return;
  }
  float largest = 0;
  for (int64_t i = 0; i < length; i++) {
    largest = std::max(largest, std::fabs(activations[i]));
  }
  const float inverse = largest > 0 ? 127 / largest : 0;
  steps[row] = largest / 127;

  int8_t* rounded = &values[row * width];
  for (int64_t i = 0; i < length; i++) {
    rounded[i] = static_cast<int8_t>(std::nearbyint(activations[i] * inverse));
  }
  for (int64_t group = 0; group < num_groups; group++) {
    int32_t sum = 0;
    for (int64_t i = group * width / num_groups; i < (group + 1) * width / num_groups; i++) {
      sum += rounded[i];
    }
    group_sums[row * num_groups + group] = sum;
  }
}

namespace {

// What a row gives for the sixteen outputs of a panel, of which the last panel of a layer may have fewer.
inline void write_outputs(const Linear& layer, int64_t panel, const InputRows& rows, int64_t row, Float32x16 sum,
                          Output output) {
  const int64_t first = kLanes * panel;
  const int64_t count = std::min(kLanes, layer.out_features - first);
  float* target = output.data + row * layer.out_features + first;
  const float* bias = layer.bias_data + first;
  const Float32x16 step = Float32x16{} + rows.steps[row];
  if (count == kLanes) {
    const Float32x16 value = multiply_add(sum, step, load(bias));
    store(target, output.add ? load(target) + output.factor * value : value);
    return;
  }
  float values[kLanes] = {};
  std::copy_n(bias, count, values);
  store(values, multiply_add(sum, step, load(values)));
  for (int64_t n = 0; n < count; n++) {
    target[n] = output.add ? target[n] + output.factor * values[n] : values[n];
  }
}

// Inside a block, kRows rows times kPanels panels: what is read from memory serves all of them, and sums stay in
// registers. Hence the unrolled loops, and that the three parts of a block become one function.
#define INLINE inline __attribute__((always_inline))

// A sum of products begins with the sum of the row times the code for zero, subtracted.
template <int kBits, int kRows, int kPanels>
INLINE void begin_sums(const InputRows& rows, int64_t row, int64_t group, Int32x16 (&sum)[kRows][kPanels]) {
#pragma GCC unroll 8
  for (int r = 0; r < kRows; r++) {
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; p++) {
      sum[r][p] = Int32x16{} - kZeroCode<kBits> * rows.group_sums[(row + r) * rows.num_groups + group];
    }
  }
}

// The next 64 bytes of each panel: four inputs in 8 bits, eight in 4 bits, times those of each row. Meanwhile what lies
// `ahead` bytes further is fetched.
template <int kBits, int kRows, int kPanels>
INLINE void add_products(const uint8_t* codes, int64_t panel_size, int64_t ahead, const int8_t* values, int64_t width,
                         Int32x16 (&sum)[kRows][kPanels]) {
  UInt8x64 low[kPanels];
  UInt8x64 high[kPanels];
#pragma GCC unroll 4
  for (int p = 0; p < kPanels; p++) {
    const uint8_t* from = codes + p * panel_size;
    __builtin_prefetch(from + ahead);
    low[p] = as_factors<kBits>(*reinterpret_cast<const UInt8x64*>(from));
    if (kBits == 4) {
      high[p] = upper_nibbles(low[p]);
      low[p] = low[p] & 15;
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; r++) {
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; p++) {
      sum[r][p] = add_dot_products<kBits>(sum[r][p], low[p], values + r * width);
      if (kBits == 4) {
        sum[r][p] = add_dot_products<kBits>(sum[r][p], high[p], values + r * width + 4);
      }
    }
  }
}

// result += scale * sum, for the scales (16) of a group of inputs in each panel.
template <int kRows, int kPanels>
INLINE void add_scaled(const Int32x16 (&sum)[kRows][kPanels], const uint16_t* scales, int64_t num_groups,
                       Float32x16 (&result)[kRows][kPanels]) {
#pragma GCC unroll 8
  for (int r = 0; r < kRows; r++) {
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; p++) {
      const uint16_t* scale = scales + kLanes * p * num_groups;
      result[r][p] = multiply_add(to_float(sum[r][p]), load_bfloat16(scale), result[r][p]);
      if (r == 0) {
        __builtin_prefetch(scale + kLanes * kPanels * num_groups);
      }
    }
  }
}

// How far ahead of an offset in a panel memory is fetched, in bytes. After the end of its panels a thread goes on with
// the next ones.
inline int64_t fetched_ahead(int64_t offset, int64_t panel_size, int64_t num_panels) {
  constexpr int64_t kAhead = 4096;
  return offset + kAhead < panel_size ? kAhead : kAhead + (num_panels - 1) * panel_size;
}

// One input of sixteen outputs, in float32 or bfloat16.
template <int kBits>
INLINE Float32x16 load_weights(const uint8_t* from) {
  if (kBits == 32) {
    return load(reinterpret_cast<const float*>(from));
  }
  return load_bfloat16(reinterpret_cast<const uint16_t*>(from));
}

// result += products of a block in a layer of floats, whose weights in these panels are `weights`. What becomes a float
// on the way is stored in `widened`, if that is asked for.
template <int kBits, bool kWiden, int kRows, int kPanels>
INLINE void add_floats(const Linear& layer, const uint8_t* weights, const InputRows& rows, int64_t row, float* widened,
                       Float32x16 (&result)[kRows][kPanels]) {
  constexpr int64_t kBytes = 2 * kBits;  // of one input
  const int64_t panel_size = kBytes * layer.in_features;
  const float* inputs = &rows.floats[row * layer.in_features];

  for (int64_t input = 0; input < layer.in_features; input++) {
    const int64_t offset = kBytes * input;
    const int64_t ahead = fetched_ahead(offset, panel_size, kPanels);
    Float32x16 weight[kPanels];
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; p++) {
      const uint8_t* from = weights + p * panel_size + offset;
      __builtin_prefetch(from + ahead);
      weight[p] = load_weights<kBits>(from);
      if (kWiden) {
        store(widened + (p * layer.in_features + input) * kLanes, weight[p]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; r++) {
      const Float32x16 value = Float32x16{} + inputs[r * layer.in_features + input];
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; p++) {
        result[r][p] = multiply_add(value, weight[p], result[r][p]);
      }
    }
  }
}

// The same for a layer of integers, group by group.
template <int kBits, int kRows, int kPanels>
INLINE void add_integers(const Linear& layer, const uint8_t* codes, int64_t panel, const InputRows& rows, int64_t row,
                         Float32x16 (&result)[kRows][kPanels]) {
  constexpr int64_t kInputs = 32 / kBits;
  const int64_t panel_size = 2 * kBits * layer.in_features;
  const int64_t group_size = layer.in_features / layer.num_groups;
  const uint16_t* scales = layer.scale_data + panel * kLanes * layer.num_groups;
  const int8_t* values = &rows.values[row * layer.in_features];

  for (int64_t group = 0; group < layer.num_groups; group++) {
    Int32x16 sum[kRows][kPanels];
    begin_sums<kBits>(rows, row, group, sum);
    for (int64_t input = group * group_size; input < (group + 1) * group_size; input += kInputs) {
      const int64_t offset = 2 * kBits * input;
      const int64_t ahead = fetched_ahead(offset, panel_size, kPanels);
      add_products<kBits>(codes + offset, panel_size, ahead, values + input, layer.in_features, sum);
    }
    add_scaled(sum, scales + kLanes * group, layer.num_groups, result);
  }
}

// `codes` are the layer's in these panels, in kBits.
template <int kBits, bool kWiden, int kRows, int kPanels>
inline void multiply_block(const Linear& layer, const uint8_t* codes, int64_t panel, const InputRows& rows, int64_t row,
                           float* widened, Output output) {
  Float32x16 result[kRows][kPanels] = {};
  if constexpr (kBits >= 16) {
    add_floats<kBits, kWiden>(layer, codes, rows, row, widened, result);
  } else {
    add_integers<kBits>(layer, codes, panel, rows, row, result);
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; r++) {
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; p++) {
      write_outputs(layer, panel + p, rows, row + r, result[r][p], output);
    }
  }
}

// How many rows of sums the registers hold.
template <int kPanels>
constexpr int kRowsOfSums = kPanels <= 2 && kManyRegisters ? 8 : 4;

// Rows from `row` on, in blocks.
template <int kBits, int kPanels>
inline void multiply_rows(const Linear& layer, const uint8_t* codes, int64_t panel, const InputRows& rows, int64_t row,
                          Output output) {
  if (kRowsOfSums<kPanels> == 8) {
    for (; row + 8 <= rows.num_rows; row += 8) {
      multiply_block<kBits, false, 8, kPanels>(layer, codes, panel, rows, row, nullptr, output);
    }
  }
  for (; row + 4 <= rows.num_rows; row += 4) {
    multiply_block<kBits, false, 4, kPanels>(layer, codes, panel, rows, row, nullptr, output);
  }
  switch (rows.num_rows - row) {
    case 3:
      multiply_block<kBits, false, 3, kPanels>(layer, codes, panel, rows, row, nullptr, output);
      break;
    case 2:
      multiply_block<kBits, false, 2, kPanels>(layer, codes, panel, rows, row, nullptr, output);
      break;
    case 1:
      multiply_block<kBits, false, 1, kPanels>(layer, codes, panel, rows, row, nullptr, output);
      break;
  }
}

// All rows times kPanels panels. What the first rows widen from bfloat16 serves the others as it is.
template <int kBits, int kPanels>
inline void multiply_all_rows(const Linear& layer, int64_t panel, const InputRows& rows, Output output) {
  const uint8_t* codes = layer.code_data + panel * 2 * kBits * layer.in_features;
  if constexpr (kBits == 16) {
    constexpr int kFirst = kRowsOfSums<kPanels>;
    if (rows.num_rows > kFirst) {
      static thread_local std::vector<float> widened;
      widened.resize(std::max<int64_t>(widened.size(), kPanels * kLanes * layer.in_features));
      multiply_block<16, true, kFirst, kPanels>(layer, codes, panel, rows, 0, widened.data(), output);
      const uint8_t* floats = reinterpret_cast<const uint8_t*>(widened.data());
      multiply_rows<32, kPanels>(layer, floats, panel, rows, kFirst, output);
      return;
    }
  }
  multiply_rows<kBits, kPanels>(layer, codes, panel, rows, 0, output);
}

template <int kBits, int kPanels>
void multiply_panels(const Linear& layer, const InputRows& rows, Output output) {
#pragma omp for schedule(static) nowait
  for (int64_t i = 0; i < (layer.num_panels + kPanels - 1) / kPanels; i++) {
    const int64_t first = kPanels * i;
    if (first + kPanels <= layer.num_panels) {
      multiply_all_rows<kBits, kPanels>(layer, first, rows, output);
      continue;
    }
    for (int64_t panel = first; panel < layer.num_panels; panel++) {
      multiply_all_rows<kBits, 1>(layer, panel, rows, output);
    }
  }
}

// Few rows wait for memory alone. The processor's own prefetching follows one stream of addresses best on AMD (measured
// on a Zen 4), several side by side on Intel (on a Xeon).
bool reads_one_stream() {
#ifdef __x86_64__
  static const bool amd = __builtin_cpu_is("amd");
  return amd;
#else
  return false;
#endif
}

template <int kBits>
void multiply_by_vectors(const Linear& layer, const InputRows& rows, Output output) {
  const bool one_stream = reads_one_stream();
  if (!kManyRegisters) {
    multiply_panels<kBits, 1>(layer, rows, output);
  } else if (rows.num_rows >= 8 || (rows.num_rows >= 4 && !one_stream)) {
    multiply_panels<kBits, 2>(layer, rows, output);
  } else if (one_stream) {
    multiply_panels<kBits, 1>(layer, rows, output);
  } else {
    multiply_panels<kBits, 4>(layer, rows, output);
  }
}

#ifdef __AMX_INT8__
// Sixteen or, with kMoreRows, 32 rows times two panels of 8-bit weights. A layer with an odd number of panels has its
// last one multiplied twice, and written once.
template <bool kMoreRows>
inline void multiply_block_by_tiles(const Linear& layer, int64_t panel, const InputRows& rows, int64_t row,
                                    bool prefetch, Output output) {
  const int64_t panel_size = amx::kTileRows * layer.in_features;
  const int64_t num_panels = panel + 1 < layer.num_panels ? 2 : 1;
  const uint8_t* left = layer.code_data + panel * panel_size;
  const uint8_t* right = num_panels == 2 ? left + panel_size : left;
  alignas(64) Int32x16 sums[4][amx::kTileRows];
  amx::multiply_tiles<kMoreRows>(left, right, &rows.values[row * layer.in_features], layer.in_features, prefetch, sums);

  const int64_t num_rows = std::min((kMoreRows ? 2 : 1) * amx::kTileRows, rows.num_rows - row);
  for (int64_t r = 0; r < num_rows; r++) {
    for (int64_t p = 0; p < num_panels; p++) {
      const Int32x16 sum = sums[r / amx::kTileRows * 2 + p][r % amx::kTileRows] - 128 * rows.group_sums[row + r];
      const Float32x16 scale = load_bfloat16(layer.scale_data + kLanes * (panel + p));
      write_outputs(layer, panel + p, rows, row + r, multiply_add(to_float(sum), scale, Float32x16{}), output);
    }
  }
}

void multiply_by_tiles(const Linear& layer, const InputRows& rows, Output output) {
  amx::configure_tiles(rows.num_rows);
#pragma omp for schedule(static) nowait
  for (int64_t panel = 0; panel < layer.num_panels; panel += 2) {
    int64_t row = 0;
    for (; row + 16 < rows.num_rows; row += 32) {
      const bool last_rows = row + 32 >= rows.num_rows;
      multiply_block_by_tiles<true>(layer, panel, rows, row, last_rows, output);
    }
    if (row < rows.num_rows) {
      multiply_block_by_tiles<false>(layer, panel, rows, row, true, output);
    }
  }
  amx::release_tiles();
}
#endif

}  // namespace

void multiply(const Linear& layer, const InputRows& rows, Output output) {
#ifdef __AMX_INT8__
  const bool fits_tiles = layer.bits == 8 && layer.in_features % amx::kTileBytes == 0;
  if (fits_tiles && rows.num_rows >= 8 && amx::request_tiles()) {
    multiply_by_tiles(layer, rows, output);
    return;
  }
#endif
  switch (layer.bits) {
    case 32:
      multiply_by_vectors<32>(layer, rows, output);
      break;
    case 16:
      multiply_by_vectors<16>(layer, rows, output);
      break;
    case 8:
      multiply_by_vectors<8>(layer, rows, output);
      break;
    default:
      multiply_by_vectors<4>(layer, rows, output);
  }
}

at::Tensor linear(const Linear& layer, const at::Tensor& rows) {
  const int64_t num_rows = rows.size(0);
  const int64_t length = rows.size(1);
  const float* activations = rows.data_ptr<float>();
  InputRows inputs(num_rows, layer);
  at::Tensor result = at::empty({num_rows, layer.out_features}, at::kFloat);
  float* result_data = result.data_ptr<float>();
#pragma omp parallel
  {
#pragma omp for
    for (int64_t row = 0; row < num_rows; row++) {
      inputs.set_row(row, activations + row * length, length);
    }
    multiply(layer, inputs, {result_data, false});
  }
  return result;
}

}  // namespace qvision

// Linear layers with weights in 8 or 4 bits, for rows of activations in 8 bits; or with weights in float32 or bfloat16,
// for rows in float32.
//
// Sums of products of integers are exact. So the vector unit, the matrix unit and the portable fallback give the same
// to the bit. Sums of floats are taken in the order of the inputs. In either case the result of a row does not depend
// on the rows beside it.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace qvision {

// Weights are unsigned codes in panels of sixteen outputs (PackedLinear in quantize.py makes them). The 64 bytes at
// [panel, i, j] hold, output by output, four inputs in 8 bits; in 4 bits eight, the second four in the upper halves. In
// 32 bits they are floats, one input of each output; in 16 bits bfloat16, one input of all outputs, then the next.
struct Linear {
  at::Tensor codes;   // uint8 (panels, in_features/32, bits, 64)
  at::Tensor scales;  // bfloat16 (panels, groups, 16); a group is a run of inputs with the same scales; ones for floats
  at::Tensor bias;    // float32 (out_features)

  // The same for the inner loops, which have no time for tensors.
  const uint8_t* code_data;
  const uint16_t* scale_data;
  const float* bias_data;
  int64_t out_features;
  int64_t in_features;  // a multiple of 32
  int64_t num_panels;
  int64_t num_groups;
  int64_t bits;
  bool has_floats;  // 16 or 32 bits

  Linear(at::Tensor codes, at::Tensor scales, at::Tensor bias);
};

// Rows of activations as the inputs of a layer: row i is about steps[i] * values[i]; for a layer of floats it is
// floats[i], and its step is one.
struct InputRows {
  int64_t num_rows;
  int64_t width;  // in_features of the layer; a shorter row is followed by zeros
  int64_t num_groups;
  std::vector<float> floats;        // (num_rows, width), or empty
  std::vector<int8_t> values;       // (num_rows, width), with zeros up to a multiple of 32 rows, for the matrix unit
  std::vector<float> steps;         // (num_rows)
  std::vector<int32_t> group_sums;  // (num_rows, num_groups), the sum of the values in each group

  InputRows(int64_t num_rows, const Linear& layer);

  // Take one row of `length` activations. Rounded, each row has a step of its own, so that it does not depend on the
  // others.
  void set_row(int64_t row, const float* activations, int64_t length);
};

// Where the results of a layer go: `data` (rows, out_features) is overwritten, or `factor` times the results is added.
struct Output {
  float* data;
  bool add;
  float factor = 1;
};

// To be called by every thread of an OpenMP team: each takes some of the outputs and returns without waiting for the
// others, so that it can begin the next product.
void multiply(const Linear& layer, const InputRows& rows, Output output);

// (rows, length) -> (rows, out_features), with a team of threads of its own.
at::Tensor linear(const Linear& layer, const at::Tensor& rows);

}  // namespace qvision

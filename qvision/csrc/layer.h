// One pre-norm transformer layer: of the vision tower, of either half of a Q-Former layer, of GPT-Neo, and late fusion,
// which looks at keys and values that are given.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "attention.h"
#include "linear.h"

namespace qvision {

struct Norm {
  at::Tensor weight;
  at::Tensor bias;
  float epsilon;
};

enum class Activation { kGelu, kTanhGelu, kQuickGelu };  // in the order of ACTIVATIONS in compiled.py

// What a layer works in, for `num_rows` rows: allocated once for all threads of a team.
struct Workspace {
  bool own_keys;                    // keys and values are those of the rows themselves
  InputRows narrow;                 // inputs of all linear layers but the last
  InputRows wide;                   // inputs of the last, as wide as the feed-forward
  std::unique_ptr<float[]> hidden;  // (num_rows, width): normalised rows, then what attention gives
  std::unique_ptr<float[]> queries;
  std::unique_ptr<float[]> keys;
  std::unique_ptr<float[]> values;
  std::unique_ptr<float[]> feed_forward;  // (num_rows, width of the feed-forward)

  Workspace(int64_t num_rows, int64_t width, const Linear& up, const Linear& down, bool own_keys);
};

struct Layer {
  Norm attention_norm;
  Norm feed_forward_norm;
  std::shared_ptr<Linear> query;
  std::shared_ptr<Linear> key;
  std::shared_ptr<Linear> value;
  std::shared_ptr<Linear> output;
  std::shared_ptr<Linear> up;
  std::shared_ptr<Linear> down;
  int64_t num_heads;
  Activation activation;
  float score_scale;     // times products of queries and keys
  float residual_scale;  // times what attention adds to the rows

  // (images, rows, width) -> the same. Rows look at each other, or at keys and values
  // (images, 2, heads, positions, head size) that are given.
  at::Tensor forward(const at::Tensor& rows, const std::optional<at::Tensor>& keys_values) const;

  // The two parts around attention, to be called by every thread of a team. The first leaves queries, and keys and
  // values where the rows have their own, in the workspace. The second takes what attention left in workspace.hidden,
  // and adds that and the feed-forward to the rows.
  void project(const float* rows, int64_t num_rows, int64_t width, Workspace& workspace) const;
  void add_attention_and_feed_forward(float* rows, int64_t num_rows, int64_t width, Workspace& workspace) const;
};

}  // namespace qvision

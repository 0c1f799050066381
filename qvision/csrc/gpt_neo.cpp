#include "gpt_neo.h"

#include <ATen/ops/empty.h>

#include <algorithm>

namespace qvision {
namespace {

// A cache (sequences, heads, length, head size) with room for `more` positions. Without such room it is copied to where
// there is some for the tokens after these too: little for many sequences, of which few go on for long.
at::Tensor extend_cache(const at::Tensor& cache, int64_t sequences, int64_t heads, int64_t head_size, int64_t more) {
  const int64_t length = cache.defined() ? cache.size(2) : 0;
  const int64_t capacity = length ? cache.stride(1) / head_size : 0;
  const bool rows_follow = length && cache.stride(2) == head_size && cache.stride(3) == 1;
  const bool sequences_follow = sequences == 1 || (length && cache.stride(0) == heads * capacity * head_size);
  if (length + more <= capacity && rows_follow && sequences_follow) {
    return cache.as_strided({sequences, heads, length + more, head_size},
                            {heads * capacity * head_size, capacity * head_size, head_size, 1});
  }
  const int64_t spare = sequences > 8 ? 7 : 63;
  const at::Tensor roomy = at::empty({sequences, heads, length + more + spare, head_size}, at::kFloat);
  at::Tensor extended = roomy.narrow(2, 0, length + more);
  if (length) {
    extended.narrow(2, 0, length).copy_(cache);
  }
  return extended;
}

// Which positions each token of a sequence sees in a block.
using Visible = std::vector<std::vector<int32_t>>;

Visible visible_in_mask(const at::Tensor& mask) {
  Visible visible(mask.size(0));
  const at::Tensor rows = mask.contiguous();
  const bool* sees = rows.data_ptr<bool>();
  for (auto& positions : visible) {
    for (int32_t position = 0; position < mask.size(1); position++) {
      if (*sees++) {
        positions.push_back(position);
      }
    }
  }
  return visible;
}

Visible visible_range(int32_t first, int32_t end) {
  Visible visible(1);
  for (int32_t position = first; position < end; position++) {
    visible[0].push_back(position);
  }
  return visible;
}

// The new keys and values of a block behind those of its cache, and attention to both, for every thread of a team.
void attend_to_cache(const at::Tensor& keys, const at::Tensor& values, int64_t old_length, const Visible& visible,
                     float score_scale, int64_t width, Workspace& workspace) {
  const int64_t num_sequences = keys.size(0);
  const int64_t num_heads = keys.size(1);
  const int64_t head_size = keys.size(3);
  const int64_t num_new = keys.size(2) - old_length;  // tokens of a sequence
  std::vector<float> scores(keys.size(2));
#pragma omp for
  for (int64_t i = 0; i < num_sequences * num_heads; i++) {
    const int64_t sequence = i / num_heads;
    const int64_t head = i % num_heads;
    float* head_keys = keys.data_ptr<float>() + i * keys.stride(1);
    float* head_values = values.data_ptr<float>() + i * values.stride(1);
    const KeysValues seen{head_keys, head_values, head_size};
    for (int64_t n = 0; n < num_new; n++) {
      const int64_t offset = (sequence * num_new + n) * width + head * head_size;
      const int64_t position = (old_length + n) * head_size;
      std::copy_n(&workspace.keys[offset], head_size, head_keys + position);
      std::copy_n(&workspace.values[offset], head_size, head_values + position);
      attend_with_one_query(&workspace.queries[offset], seen, visible[n], head_size, score_scale, scores.data(),
                            &workspace.hidden[offset]);
    }
  }
}

}  // namespace

std::vector<at::Tensor> GPTNeo::step(const at::Tensor& embedded, const std::vector<at::Tensor>& cache,
                                     const std::optional<at::Tensor>& global_mask,
                                     const std::optional<at::Tensor>& local_mask) const {
  const int64_t num_tokens = embedded.size(0);
  const int64_t width = embedded.size(1);
  const int64_t num_heads = blocks[0]->num_heads;
  const int64_t head_size = width / num_heads;
  const int64_t num_sequences = global_mask ? 1 : num_tokens;
  const int64_t num_new = num_tokens / num_sequences;  // tokens of a sequence
  const int64_t old_length = cache.empty() ? 0 : cache[0].size(2);
  const int64_t length = old_length + num_new;

  // 1. States, then keys and values of each block, with room for the new tokens.
  at::Tensor states = embedded.clone();
  float* state_data = states.data_ptr<float>();
  std::vector<at::Tensor> result{states};
  for (size_t i = 0; i < 2 * blocks.size(); i++) {
    const at::Tensor old = old_length ? cache[i] : at::Tensor();
    result.push_back(extend_cache(old, num_sequences, num_heads, head_size, num_new));
  }

  // 2. What each token sees.
  const Visible global = global_mask ? visible_in_mask(*global_mask) : visible_range(0, length);
  const Visible local =
      local_mask ? visible_in_mask(*local_mask) : visible_range(std::max<int64_t>(0, length - window), length);

  // 3. Block after block, with the same team of threads.
  Workspace workspace(num_tokens, width, *blocks[0]->up, *blocks[0]->down, true);
#pragma omp parallel
  for (size_t b = 0; b < blocks.size(); b++) {
    const Layer& block = *blocks[b];
    const Visible& visible = is_local[b] ? local : global;
    block.project(state_data, num_tokens, width, workspace);
    attend_to_cache(result[1 + 2 * b], result[2 + 2 * b], old_length, visible, block.score_scale, width, workspace);
    block.add_attention_and_feed_forward(state_data, num_tokens, width, workspace);
  }
  return result;
}

}  // namespace qvision

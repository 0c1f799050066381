// A step of GPT-Neo: the newest tokens through all blocks in one parallel region, with a cache of keys and values.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "layer.h"

namespace qvision {

struct GPTNeo {
  std::vector<std::shared_ptr<Layer>> blocks;
  std::vector<bool> is_local;  // whether a block sees the newest `window` tokens only
  int64_t window;

  // Embedded tokens (tokens, width), and for each block keys and values (sequences, heads, length, head size) -> states
  // (tokens, width), and the caches with the new tokens, in the same memory where there was room.
  //
  // Without masks each token continues a sequence of its own. With masks (tokens, length + tokens), of the positions
  // that a token sees in global and in local blocks, all continue the same sequence, as guesses of how it goes on.
  std::vector<at::Tensor> step(const at::Tensor& embedded, const std::vector<at::Tensor>& cache,
                               const std::optional<at::Tensor>& global_mask,
                               const std::optional<at::Tensor>& local_mask) const;
};

}  // namespace qvision

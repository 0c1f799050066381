// Where weights lie.
#pragma once

#include <ATen/core/Tensor.h>

namespace qvision {

// A copy in large pages, where the system has them: all weights are read for every token, and with pages of 2 MiB
// instead of 4 KiB the processor looks up fewer addresses on the way. The copies share blocks of memory, and a block
// is freed with the last of its copies. Not for several threads at once.
at::Tensor copy_to_large_pages(const at::Tensor& source);

}  // namespace qvision

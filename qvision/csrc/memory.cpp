#include "memory.h"

#include <ATen/ops/from_blob.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>

namespace qvision {
namespace {

constexpr size_t kPage = 2 << 20;
constexpr size_t kSmallestBlock = 16 * kPage;
constexpr size_t kAlignment = 64;  // a cache line, and a vector

size_t round_up(size_t size, size_t multiple) {
  return (size + multiple - 1) / multiple * multiple;
}

std::shared_ptr<char> allocate_large_pages(size_t size) {
  std::shared_ptr<char> block(static_cast<char*>(std::aligned_alloc(kPage, size)), std::free);
  TORCH_CHECK(block, "no memory for ", size, " bytes of weights");
#ifdef MADV_HUGEPAGE
  madvise(block.get(), size, MADV_HUGEPAGE);  // a hint: where it is refused, pages are small
#endif
  return block;
}

}  // namespace

at::Tensor copy_to_large_pages(const at::Tensor& source) {
  static std::shared_ptr<char> block;
  static size_t used = 0;
  static size_t capacity = 0;
  const size_t size = round_up(source.nbytes(), kAlignment);
  if (used + size > capacity) {
    capacity = round_up(std::max(size, kSmallestBlock), kPage);
    used = 0;
    block = allocate_large_pages(capacity);
  }
  char* copy = block.get() + used;
  used += size;
  std::memcpy(copy, source.data_ptr(), source.nbytes());
  return at::from_blob(
      copy, source.sizes(), [keep_alive = block](void*) {}, source.options());
}

}  // namespace qvision

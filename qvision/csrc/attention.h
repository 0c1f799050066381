// Attention of a head's queries to keys and values.
#pragma once

#include <cstdint>
#include <vector>

#include "simd.h"

namespace qvision {

// Keys and values of a head, `stride` floats from one position to the next.
struct KeysValues {
  const float* keys;
  const float* values;
  int64_t stride;
};

// One query (head_size) looks at the positions listed in `visible`. `scores` has room for as many floats.
void attend_with_one_query(const float* query, const KeysValues& seen, const std::vector<int32_t>& visible,
                           int64_t head_size, float scale, float* scores, float* output);

// Many queries look at all positions. Keys are transposed first, so that a query meets sixteen of them at once, which
// pays off from about sixteen queries on. The object is the working memory of one thread.
class ManyQueries {
 public:
  ManyQueries(int64_t num_positions, int64_t head_size);

  // Queries and outputs (num_queries, head_size) are `query_stride` floats from one to the next.
  void attend(const float* queries, int64_t num_queries, int64_t query_stride, const KeysValues& seen, float scale,
              float* output);

 private:
  void copy(const KeysValues& seen);
  void softmax(float* scores, float scale) const;

  template <int kQueries>
  void attend_with(const float* queries, int64_t query_stride, float scale, float* output);

  int64_t num_positions_;
  int64_t head_size_;
  int64_t position_vectors_;         // vectors that hold a float for each position
  int64_t head_vectors_;             // vectors that hold head_size floats
  std::vector<Float32x16> keys_;     // (head_size, position_vectors)
  std::vector<Float32x16> values_;   // (num_positions, head_vectors)
  std::vector<Float32x16> scores_;   // (queries at a time, position_vectors)
  std::vector<Float32x16> outputs_;  // (queries at a time, head_vectors)
};

}  // namespace qvision

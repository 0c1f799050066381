#include "attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace qvision {
namespace {

constexpr int kQueriesAtATime = 4;

int64_t vectors_for(int64_t num_floats) {
  return (num_floats + kLanes - 1) / kLanes;
}

// product (kRows, columns) = rows (kRows, depth) times matrix (depth, columns), where columns come in vectors.
template <int kRows>
inline void multiply_matrices(const float* rows, int64_t row_stride, const Float32x16* matrix, int64_t depth,
                              int64_t column_vectors, Float32x16* product) {
  for (int64_t column = 0; column < column_vectors; column++) {
    Float32x16 sum[kRows] = {};
    for (int64_t i = 0; i < depth; i++) {
#pragma GCC unroll 4
      for (int row = 0; row < kRows; row++) {
        sum[row] += rows[row * row_stride + i] * matrix[i * column_vectors + column];
      }
    }
    for (int row = 0; row < kRows; row++) {
      product[row * column_vectors + column] = sum[row];
    }
  }
}

}  // namespace

void attend_with_one_query(const float* query, const KeysValues& seen, const std::vector<int32_t>& visible,
                           int64_t head_size, float scale, float* scores, float* output) {
  const int64_t count = visible.size();
  float largest = -std::numeric_limits<float>::max();
  for (int64_t i = 0; i < count; i++) {
    const float* key = seen.keys + visible[i] * seen.stride;
    float product = 0;
    for (int64_t c = 0; c < head_size; c++) {
      product += query[c] * key[c];
    }
    scores[i] = scale * product;
    largest = std::max(largest, scores[i]);
  }

  float sum = 0;
  for (int64_t i = 0; i < count; i++) {
    scores[i] = std::exp(scores[i] - largest);
    sum += scores[i];
  }

  std::fill_n(output, head_size, 0.0f);
  for (int64_t i = 0; i < count; i++) {
    const float* value = seen.values + visible[i] * seen.stride;
    for (int64_t c = 0; c < head_size; c++) {
      output[c] += scores[i] / sum * value[c];
    }
  }
}

ManyQueries::ManyQueries(int64_t num_positions, int64_t head_size)
    : num_positions_(num_positions),
      head_size_(head_size),
      position_vectors_(vectors_for(num_positions)),
      head_vectors_(vectors_for(head_size)),
      keys_(head_size * position_vectors_),
      values_(num_positions * head_vectors_),
      scores_(kQueriesAtATime * position_vectors_),
      outputs_(kQueriesAtATime * head_vectors_) {}

void ManyQueries::attend(const float* queries, int64_t num_queries, int64_t query_stride, const KeysValues& seen,
                         float scale, float* output) {
  copy(seen);
  int64_t query = 0;
  for (; query + kQueriesAtATime <= num_queries; query += kQueriesAtATime) {
    const int64_t offset = query * query_stride;
    attend_with<kQueriesAtATime>(queries + offset, query_stride, scale, output + offset);
  }
  for (; query < num_queries; query++) {
    const int64_t offset = query * query_stride;
    attend_with<1>(queries + offset, query_stride, scale, output + offset);
  }
}

void ManyQueries::copy(const KeysValues& seen) {
  float* transposed_keys = reinterpret_cast<float*>(keys_.data());
  float* padded_values = reinterpret_cast<float*>(values_.data());
  for (int64_t position = 0; position < num_positions_; position++) {
    const float* key = seen.keys + position * seen.stride;
    for (int64_t c = 0; c < head_size_; c++) {
      transposed_keys[c * kLanes * position_vectors_ + position] = key[c];
    }
    std::memcpy(padded_values + position * kLanes * head_vectors_, seen.values + position * seen.stride,
                head_size_ * sizeof(float));
  }
}

void ManyQueries::softmax(float* scores, float scale) const {
  float largest = -std::numeric_limits<float>::max();
  for (int64_t i = 0; i < num_positions_; i++) {
    scores[i] *= scale;
    largest = std::max(largest, scores[i]);
  }
  float sum = 0;
  for (int64_t i = 0; i < num_positions_; i++) {
    scores[i] = std::exp(scores[i] - largest);
    sum += scores[i];
  }
  for (int64_t i = 0; i < num_positions_; i++) {
    scores[i] /= sum;
  }
}

template <int kQueries>
void ManyQueries::attend_with(const float* queries, int64_t query_stride, float scale, float* output) {
  multiply_matrices<kQueries>(queries, query_stride, keys_.data(), head_size_, position_vectors_, scores_.data());
  float* scores = reinterpret_cast<float*>(scores_.data());
  const int64_t score_stride = kLanes * position_vectors_;
  for (int query = 0; query < kQueries; query++) {
    softmax(scores + query * score_stride, scale);
  }
  multiply_matrices<kQueries>(scores, score_stride, values_.data(), num_positions_, head_vectors_, outputs_.data());
  for (int query = 0; query < kQueries; query++) {
    std::memcpy(output + query * query_stride, &outputs_[query * head_vectors_], head_size_ * sizeof(float));
  }
}

}  // namespace qvision

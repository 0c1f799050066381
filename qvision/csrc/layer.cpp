#include "layer.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace qvision {
namespace {

constexpr int64_t kManyQueries = 16;  // from here on transposing the keys pays off

void normalize(const float* row, const Norm& norm, int64_t width, float* output) {
  const float* weight = norm.weight.data_ptr<float>();
  const float* bias = norm.bias.data_ptr<float>();
  float mean = 0;
  for (int64_t i = 0; i < width; i++) {
    mean += row[i];
  }
  mean /= width;
  float variance = 0;
  for (int64_t i = 0; i < width; i++) {
    variance += (row[i] - mean) * (row[i] - mean);
  }
  const float inverse = 1 / std::sqrt(variance / width + norm.epsilon);
  for (int64_t i = 0; i < width; i++) {
    output[i] = (row[i] - mean) * inverse * weight[i] + bias[i];
  }
}

void gelu(float* x, int64_t count) {
  constexpr float kInverseSqrt2 = .7071067812f;
  for (int64_t i = 0; i < count; i++) {
    x[i] *= .5f + .5f * std::erf(kInverseSqrt2 * x[i]);
  }
}

// An exponential that stays finite: compiled for speed, a division by infinity is a reciprocal and a correction, which
// make it not a number.
inline float finite_exp(float x) {
  constexpr float kMost = 80;  // from here on 1 + exp(x) and exp(x) are the same float, and what they divide is zero
  return std::exp(std::min(x, kMost));
}

// By an exponential, for which there are vector instructions: (1 + tanh(y)) / 2 = 1 - 1 / (exp(2y) + 1).
void tanh_gelu(float* x, int64_t count) {
  constexpr float kSqrt2OverPi = .7978845608f;
  for (int64_t i = 0; i < count; i++) {
    const float y = kSqrt2OverPi * (x[i] + .044715f * x[i] * x[i] * x[i]);
    x[i] *= 1 - 1 / (finite_exp(2 * y) + 1);
  }
}

void quick_gelu(float* x, int64_t count) {
  for (int64_t i = 0; i < count; i++) {
    x[i] /= 1 + finite_exp(-1.702f * x[i]);
  }
}

void activate(float* x, int64_t count, Activation activation) {
  switch (activation) {
    case Activation::kGelu:
      gelu(x, count);
      break;
    case Activation::kTanhGelu:
      tanh_gelu(x, count);
      break;
    case Activation::kQuickGelu:
      quick_gelu(x, count);
      break;
  }
}

// Memory as it happens to be: std::vector would write zeros that nobody reads.
std::unique_ptr<float[]> allocate(int64_t count) {
  return std::unique_ptr<float[]>(new float[count]);
}

struct Shape {
  int64_t images;
  int64_t rows;  // of an image
  int64_t heads;
  int64_t head_size;
  int64_t width;
  int64_t positions;  // that a row looks at
};

// Keys and values of an image's head: given, or those of the rows, where the heads lie side by side.
KeysValues seen_by(const Shape& shape, int64_t image, int64_t head, const float* given, const Workspace& workspace) {
  if (!given) {
    const int64_t first = image * shape.rows * shape.width + head * shape.head_size;
    return {&workspace.keys[first], &workspace.values[first], shape.width};
  }
  const int64_t size = shape.positions * shape.head_size;
  const float* keys = given + (image * 2 * shape.heads + head) * size;
  return {keys, keys + shape.heads * size, shape.head_size};
}

// Attention of all images and heads, from workspace.queries to workspace.hidden, for every thread of a team.
void attend(const Shape& shape, const float* given, float score_scale, Workspace& workspace) {
  ManyQueries many_queries(shape.positions, shape.head_size);
  std::vector<float> scores(shape.positions);
  std::vector<int32_t> all_positions(shape.positions);
  std::iota(all_positions.begin(), all_positions.end(), 0);
#pragma omp for
  for (int64_t i = 0; i < shape.images * shape.heads; i++) {
    const int64_t image = i / shape.heads;
    const int64_t head = i % shape.heads;
    const int64_t first = image * shape.rows * shape.width + head * shape.head_size;
    const KeysValues seen = seen_by(shape, image, head, given, workspace);
    const float* queries = &workspace.queries[first];
    float* hidden = &workspace.hidden[first];
    if (shape.rows >= kManyQueries) {
      many_queries.attend(queries, shape.rows, shape.width, seen, score_scale, hidden);
      continue;
    }
    // One by one, so that a caption is the same to the bit however its tokens come.
    for (int64_t row = 0; row < shape.rows; row++) {
      const int64_t offset = row * shape.width;
      attend_with_one_query(queries + offset, seen, all_positions, shape.head_size, score_scale, scores.data(),
                            hidden + offset);
    }
  }
}

}  // namespace

Workspace::Workspace(int64_t num_rows, int64_t width, const Linear& up, const Linear& down, bool own_keys)
    : own_keys(own_keys),
      narrow(num_rows, up),
      wide(num_rows, down),
      hidden(allocate(num_rows * width)),
      queries(allocate(num_rows * width)),
      keys(allocate(own_keys ? num_rows * width : 0)),
      values(allocate(own_keys ? num_rows * width : 0)),
      feed_forward(allocate(num_rows * up.out_features)) {}

void Layer::project(const float* rows, int64_t num_rows, int64_t width, Workspace& workspace) const {
#pragma omp for
  for (int64_t row = 0; row < num_rows; row++) {
    float* hidden = &workspace.hidden[row * width];
    normalize(rows + row * width, attention_norm, width, hidden);
    workspace.narrow.set_row(row, hidden, width);
  }
  multiply(*query, workspace.narrow, {workspace.queries.get(), false});
  if (workspace.own_keys) {
    multiply(*key, workspace.narrow, {workspace.keys.get(), false});
    multiply(*value, workspace.narrow, {workspace.values.get(), false});
  }
#pragma omp barrier
}

void Layer::add_attention_and_feed_forward(float* rows, int64_t num_rows, int64_t width, Workspace& workspace) const {
  // 1. rows += residual_scale * output(attention)
#pragma omp for
  for (int64_t row = 0; row < num_rows; row++) {
    workspace.narrow.set_row(row, &workspace.hidden[row * width], width);
  }
  multiply(*output, workspace.narrow, {rows, true, residual_scale});
#pragma omp barrier

  // 2. rows += down(activation(up(norm(rows))))
#pragma omp for
  for (int64_t row = 0; row < num_rows; row++) {
    float* hidden = &workspace.hidden[row * width];
    normalize(rows + row * width, feed_forward_norm, width, hidden);
    workspace.narrow.set_row(row, hidden, width);
  }
  multiply(*up, workspace.narrow, {workspace.feed_forward.get(), false});
#pragma omp barrier
#pragma omp for
  for (int64_t row = 0; row < num_rows; row++) {
    float* feed_forward = &workspace.feed_forward[row * up->out_features];
    activate(feed_forward, up->out_features, activation);
    workspace.wide.set_row(row, feed_forward, up->out_features);
  }
  multiply(*down, workspace.wide, {rows, true});
#pragma omp barrier
}

at::Tensor Layer::forward(const at::Tensor& rows, const std::optional<at::Tensor>& keys_values) const {
  Shape shape;
  shape.images = rows.size(0);
  shape.rows = rows.size(1);
  shape.heads = num_heads;
  shape.head_size = rows.size(2) / num_heads;
  shape.width = rows.size(2);
  shape.positions = keys_values ? keys_values->size(3) : shape.rows;
  const float* given = keys_values ? keys_values->data_ptr<float>() : nullptr;
  const int64_t num_rows = shape.images * shape.rows;
  at::Tensor result = rows.clone(at::MemoryFormat::Contiguous);
  float* result_data = result.data_ptr<float>();
  Workspace workspace(num_rows, shape.width, *up, *down, !keys_values);
#pragma omp parallel
  {
    project(result_data, num_rows, shape.width, workspace);
    attend(shape, given, score_scale, workspace);
    add_attention_and_feed_forward(result_data, num_rows, shape.width, workspace);
  }
  return result;
}

}  // namespace qvision

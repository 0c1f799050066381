// What Python sees. Shapes are checked here, once, so that the loops behind need not look.
#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "gpt_neo.h"
#include "layer.h"
#include "linear.h"
#include "memory.h"

namespace qvision {
namespace {

namespace py = pybind11;

void check_tensor(const at::Tensor& tensor, const char* name, at::ScalarType type, int64_t dimensions) {
  TORCH_CHECK(tensor.device().is_cpu(), name, " is on ", tensor.device(), ": the kernels are for the CPU");
  TORCH_CHECK(tensor.scalar_type() == type, name, " is ", tensor.scalar_type(), " instead of ", type);
  TORCH_CHECK(tensor.dim() == dimensions, name, " has shape ", tensor.sizes(), " instead of ", dimensions,
              " dimensions");
}

void check_contiguous(const at::Tensor& tensor, const char* name) {
  TORCH_CHECK(tensor.is_contiguous(), name, " is not contiguous");
}

// The kernels load whole vectors. PyTorch's own memory is aligned, a view into it may not be.
void check_aligned(const at::Tensor& tensor, const char* name, uintptr_t bytes) {
  const auto address = reinterpret_cast<uintptr_t>(tensor.data_ptr());
  TORCH_CHECK(address % bytes == 0, name, " does not begin at a multiple of ", bytes, " bytes: pass a copy");
}

void check_width(const char* name, int64_t width, int64_t expected) {
  TORCH_CHECK(width == expected, name, " has width ", width, " instead of ", expected);
}

at::Tensor checked_copy(const at::Tensor& tensor) {
  TORCH_CHECK(tensor.device().is_cpu(), "tensor is on ", tensor.device(), ": the kernels are for the CPU");
  check_contiguous(tensor, "tensor");
  return copy_to_large_pages(tensor);
}

std::shared_ptr<Linear> make_linear(const at::Tensor& codes, const at::Tensor& scales, const at::Tensor& bias) {
  check_tensor(codes, "codes", at::kByte, 4);
  check_tensor(scales, "scales", at::kBFloat16, 3);
  check_tensor(bias, "bias", at::kFloat, 1);
  check_contiguous(codes, "codes");
  check_contiguous(scales, "scales");
  check_contiguous(bias, "bias");
  check_aligned(codes, "codes", 64);
  check_aligned(scales, "scales", 32);
  const int64_t bits = codes.size(2);
  const int64_t groups = scales.size(1);
  TORCH_CHECK((bits == 32 || bits == 16 || bits == 8 || bits == 4) && codes.size(3) == 64,
              "codes (panels, inputs/32, bits, 64) of 4, 8, 16 or 32 bits, not ", codes.sizes());
  TORCH_CHECK(scales.size(0) == codes.size(0) && scales.size(2) == 16 && groups > 0 && codes.size(1) % groups == 0,
              "scales ", scales.sizes(), " are not (panels, groups, 16) of codes ", codes.sizes());
  TORCH_CHECK((bias.numel() + 15) / 16 == codes.size(0), "bias of ", bias.numel(), " outputs for ", codes.size(0),
              " panels of 16");
  return std::make_shared<Linear>(codes, scales, bias);
}

at::Tensor checked_linear(const Linear& layer, const at::Tensor& rows) {
  check_tensor(rows, "rows", at::kFloat, 2);
  check_contiguous(rows, "rows");
  TORCH_CHECK(rows.size(1) <= layer.in_features, "rows have width ", rows.size(1), ", the layer takes ",
              layer.in_features);
  return linear(layer, rows);
}

Norm make_norm(const at::Tensor& weight, const at::Tensor& bias, double epsilon, const Linear& next) {
  check_tensor(weight, "norm weight", at::kFloat, 1);
  check_tensor(bias, "norm bias", at::kFloat, 1);
  check_contiguous(weight, "norm weight");
  check_contiguous(bias, "norm bias");
  check_width("norm bias", bias.size(0), weight.size(0));
  TORCH_CHECK(weight.size(0) <= next.in_features, "norm of width ", weight.size(0), " before a layer that takes ",
              next.in_features);
  return {weight, bias, static_cast<float>(epsilon)};
}

// Layers that share their inputs.
void check_same_inputs(const Linear& layer, const Linear& other) {
  TORCH_CHECK(layer.in_features == other.in_features && layer.num_groups == other.num_groups, "layers of ",
              layer.in_features, " inputs in ", layer.num_groups, " groups and of ", other.in_features, " in ",
              other.num_groups, " cannot share them");
  TORCH_CHECK(layer.has_floats == other.has_floats, "layers of floats and of integers cannot share their inputs");
}

// Norms: weight and bias before attention, weight and bias before the feed-forward. Linears: query, key, value, output,
// up, down.
std::shared_ptr<Layer> make_layer(const std::vector<at::Tensor>& norms, double epsilon,
                                  const std::vector<std::shared_ptr<Linear>>& linears, int64_t heads, int activation,
                                  double score_scale, double residual_scale) {
  TORCH_CHECK(norms.size() == 4 && linears.size() == 6, "a layer has 4 tensors of norms and 6 linear layers, not ",
              norms.size(), " and ", linears.size());
  TORCH_CHECK(activation >= 0 && activation <= static_cast<int>(Activation::kQuickGelu), "no activation ", activation);
  const int64_t width = norms[0].size(0);
  TORCH_CHECK(heads > 0 && width % heads == 0, "width ", width, " in ", heads, " heads");
  for (int i : {0, 1, 2, 3, 5}) {
    check_width("a linear layer's output", linears[i]->out_features, width);
  }
  for (int i : {0, 1, 2, 3}) {
    check_same_inputs(*linears[i], *linears[4]);
  }
  TORCH_CHECK(linears[4]->out_features <= linears[5]->in_features, "the feed-forward is ", linears[4]->out_features,
              " wide, its second layer takes ", linears[5]->in_features);
  Layer layer{make_norm(norms[0], norms[1], epsilon, *linears[0]),
              make_norm(norms[2], norms[3], epsilon, *linears[4]),
              linears[0],
              linears[1],
              linears[2],
              linears[3],
              linears[4],
              linears[5],
              heads,
              static_cast<Activation>(activation),
              static_cast<float>(score_scale),
              static_cast<float>(residual_scale)};
  return std::make_shared<Layer>(std::move(layer));
}

at::Tensor checked_layer(const Layer& layer, const at::Tensor& rows, const std::optional<at::Tensor>& keys_values) {
  check_tensor(rows, "rows", at::kFloat, 3);
  check_width("rows", rows.size(2), layer.output->out_features);
  if (keys_values) {
    check_tensor(*keys_values, "keys and values", at::kFloat, 5);
    check_contiguous(*keys_values, "keys and values");
    const int64_t head_size = rows.size(2) / layer.num_heads;
    TORCH_CHECK(keys_values->size(0) == rows.size(0) && keys_values->size(1) == 2 &&
                    keys_values->size(2) == layer.num_heads && keys_values->size(4) == head_size,
                "keys and values ", keys_values->sizes(), " are not (", rows.size(0), ", 2, ", layer.num_heads,
                ", positions, ", head_size, ")");
  }
  return layer.forward(rows, keys_values);
}

std::shared_ptr<GPTNeo> make_gpt_neo(std::vector<std::shared_ptr<Layer>> blocks, std::vector<bool> is_local,
                                     int64_t window) {
  TORCH_CHECK(!blocks.empty() && blocks.size() == is_local.size(), blocks.size(), " blocks, but ", is_local.size(),
              " times local or global");
  for (const auto& block : blocks) {
    check_width("a block", block->output->out_features, blocks[0]->output->out_features);
    check_width("a block's feed-forward", block->up->out_features, blocks[0]->up->out_features);
    check_same_inputs(*block->up, *blocks[0]->up);
    check_same_inputs(*block->down, *blocks[0]->down);
    TORCH_CHECK(block->num_heads == blocks[0]->num_heads, "blocks with different numbers of heads");
  }
  return std::make_shared<GPTNeo>(GPTNeo{std::move(blocks), std::move(is_local), window});
}

void check_mask(const at::Tensor& mask, const char* name, int64_t tokens, int64_t length) {
  check_tensor(mask, name, at::kBool, 2);
  TORCH_CHECK(mask.size(0) == tokens && mask.size(1) == length, name, " has shape ", mask.sizes(), " instead of (",
              tokens, ", ", length, ")");
}

std::vector<at::Tensor> checked_step(const GPTNeo& decoder, const at::Tensor& embedded,
                                     const std::vector<at::Tensor>& cache, const std::optional<at::Tensor>& global_mask,
                                     const std::optional<at::Tensor>& local_mask) {
  const Layer& block = *decoder.blocks[0];
  check_tensor(embedded, "embedded tokens", at::kFloat, 2);
  check_contiguous(embedded, "embedded tokens");
  check_width("embedded tokens", embedded.size(1), block.output->out_features);
  TORCH_CHECK(embedded.size(0) > 0, "no token to read");
  TORCH_CHECK(cache.empty() || cache.size() == 2 * decoder.blocks.size(), "a cache of ", cache.size(),
              " tensors: there are keys and values of ", decoder.blocks.size(), " blocks");
  TORCH_CHECK(global_mask.has_value() == local_mask.has_value(), "one mask without the other");
  const int64_t sequences = global_mask ? 1 : embedded.size(0);
  const int64_t length = cache.empty() ? 0 : cache[0].size(2);
  const std::vector<int64_t> shape{sequences, block.num_heads, length, embedded.size(1) / block.num_heads};
  for (const at::Tensor& tensor : cache) {
    check_tensor(tensor, "cache", at::kFloat, 4);
    TORCH_CHECK(tensor.sizes() == at::IntArrayRef(shape), "cache has shape ", tensor.sizes(), " instead of ",
                at::IntArrayRef(shape));
  }
  if (global_mask) {
    check_mask(*global_mask, "global mask", embedded.size(0), length + embedded.size(0));
    check_mask(*local_mask, "local mask", embedded.size(0), length + embedded.size(0));
  }
  return decoder.step(embedded, cache, global_mask, local_mask);
}

}  // namespace
}  // namespace qvision

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  using namespace qvision;
  m.def("copy_to_large_pages", &checked_copy, py::arg("tensor"));
  m.def("linear", &checked_linear, py::arg("layer"), py::arg("rows"));
  py::class_<Linear, std::shared_ptr<Linear>>(m, "Linear")
      .def(py::init(&make_linear), py::arg("codes"), py::arg("scales"), py::arg("bias"));
  py::class_<Layer, std::shared_ptr<Layer>>(m, "Layer")
      .def(py::init(&make_layer), py::arg("norms"), py::arg("epsilon"), py::arg("linears"), py::arg("heads"),
           py::arg("activation"), py::arg("score_scale"), py::arg("residual_scale"))
      .def("__call__", &checked_layer, py::arg("rows"), py::arg("keys_values"));
  py::class_<GPTNeo, std::shared_ptr<GPTNeo>>(m, "GPTNeo")
      .def(py::init(&make_gpt_neo), py::arg("blocks"), py::arg("is_local"), py::arg("window"))
      .def("step", &checked_step, py::arg("embedded"), py::arg("cache"), py::arg("global_mask"), py::arg("local_mask"));
}

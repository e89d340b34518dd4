// The transpose of a matrix of 16-bit numbers. Torch's own copy takes as long as half of the product that it is for: of the
// gradient of a layer's matrix, a sum over frames, in bfloat16.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

namespace sru_asr {
namespace {

using torch::stable::Tensor;

constexpr int64_t kSquare = 8;   // rows and columns of what is transposed in registers
constexpr int64_t kLine = 32;    // columns of a cache line
constexpr int64_t kStrip = 256;  // rows whose lines stay in the caches until all their columns are read

typedef uint16_t Row __attribute__((vector_size(2 * kSquare)));

// Elements of both rows one after the other. Clang has no `__builtin_shuffle`, gcc before 12 no other.
#ifdef __clang__
#define SRU_ASR_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SRU_ASR_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Row{__VA_ARGS__})
#endif

// Interleaves the halves of two rows, by elements of 1, 2 or 4 numbers.
template <int kElement>
void interleave(const Row& a, const Row& b, Row& low, Row& high) {
  if constexpr (kElement == 1) {
    low = SRU_ASR_SHUFFLE(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
    high = SRU_ASR_SHUFFLE(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
  } else if constexpr (kElement == 2) {
    low = SRU_ASR_SHUFFLE(a, b, 0, 1, 8, 9, 2, 3, 10, 11);
    high = SRU_ASR_SHUFFLE(a, b, 4, 5, 12, 13, 6, 7, 14, 15);
  } else {
    low = SRU_ASR_SHUFFLE(a, b, 0, 1, 2, 3, 8, 9, 10, 11);
    high = SRU_ASR_SHUFFLE(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
  }
}

#undef SRU_ASR_SHUFFLE

void square(const uint16_t* from, int64_t from_stride, uint16_t* to, int64_t to_stride) {
  Row row[8], pairs[8], fours[8];
  for (int i = 0; i < 8; ++i) __builtin_memcpy(&row[i], from + i * from_stride, sizeof(Row));
  for (int i = 0; i < 4; ++i) interleave<1>(row[2 * i], row[2 * i + 1], pairs[2 * i], pairs[2 * i + 1]);
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 2; ++j)
      interleave<2>(pairs[4 * i + j], pairs[4 * i + 2 + j], fours[4 * i + 2 * j], fours[4 * i + 2 * j + 1]);
  for (int i = 0; i < 4; ++i) {
    Row low, high;
    interleave<4>(fours[i], fours[4 + i], low, high);
    __builtin_memcpy(to + 2 * i * to_stride, &low, sizeof(Row));
    __builtin_memcpy(to + (2 * i + 1) * to_stride, &high, sizeof(Row));
  }
}

// Columns [begin, end).
void transpose(const uint16_t* from, int64_t rows, int64_t columns, int64_t stride, int64_t begin, int64_t end,
               uint16_t* to) {
  const int64_t whole_rows = rows / kSquare * kSquare;
  for (int64_t strip = 0; strip < rows; strip += kStrip)
    for (int64_t j = begin; j < end; j += kSquare) {
      const int64_t last = rows - strip < kStrip ? rows : strip + kStrip;
      int64_t i = strip;
      if (j + kSquare <= columns)
        for (; i < last && i < whole_rows; i += kSquare) square(from + i * stride + j, stride, to + j * rows + i, rows);
      for (; i < last; ++i)
        for (int64_t k = j; k < j + kSquare && k < end; ++k) to[k * rows + i] = from[i * stride + k];
    }
}

Tensor transpose_cpu(Tensor matrix) {
  STD_TORCH_CHECK(matrix.dim() == 2 && matrix.element_size() == 2,
                  "sru_asr::transpose: expected a matrix of 16-bit numbers, got ", matrix.dim(), " dimensions of ",
                  matrix.element_size(), " bytes");
  if (matrix.stride(1) != 1) matrix = torch::stable::contiguous(matrix);
  const int64_t rows = matrix.size(0), columns = matrix.size(1), stride = matrix.stride(0);
  Tensor result = torch::stable::new_empty(matrix, {columns, rows});
  const auto* const from = static_cast<const uint16_t*>(matrix.data_ptr());
  auto* const to = static_cast<uint16_t*>(result.data_ptr());
  const int64_t lines = (columns + kLine - 1) / kLine;
  torch::stable::parallel_for(0, rows ? lines : 0, 1 + 16384 / (rows + 1), [&](int64_t begin, int64_t end) {
    transpose(from, rows, columns, stride, begin * kLine, end == lines ? columns : end * kLine, to);
  });
  return result;
}

}  // namespace
}  // namespace sru_asr

STABLE_TORCH_LIBRARY_FRAGMENT(sru_asr, m) { m.def("transpose(Tensor matrix) -> Tensor"); }
STABLE_TORCH_LIBRARY_IMPL(sru_asr, CPU, m) { m.impl("transpose", TORCH_BOX(&sru_asr::transpose_cpu)); }

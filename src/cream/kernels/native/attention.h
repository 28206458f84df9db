// What the attention of a stream and that of a decoding step have in common.
#pragma once

#include <cmath>

#include "tiles.h"

struct Strides {  // of tokens and heads, in elements; the numbers of a head are contiguous
  int64_t token, head;
};

struct Stream {  // queries, keys or values of a packed stream
  const bf16* data;
  Strides strides;

  const bf16* at(int64_t token, int64_t head) const {
    return data + token * strides.token + head * strides.head;
  }
};

struct Segment {
  int64_t start, length, parent;  // parent: index of an earlier segment, or -1
};

struct Shape {
  int64_t heads, kv_heads, dim;
  float scale;

  int64_t group() const { return heads / kv_heads; }
  int64_t padded_dim() const { return padded(dim); }
  int64_t packed_bytes(int64_t keys) const { return padded(keys) * padded_dim() * 2; }
};

struct Packed {  // keys and values of one segment and one key head
  const char *keys, *values;
  int64_t length;
};

static inline Packed pack_segment(const Shape& shape, const bf16* k, int64_t k_stride,
                                  const bf16* v, int64_t v_stride, int64_t length, char* to) {
  char* values = to + shape.packed_bytes(length);
  pack_transposed(k, k_stride, length, shape.dim, to);
  pack(v, v_stride, length, shape.dim, values);
  return {to, values, length};
}

// Up to 32 query rows times all keys of a segment, `width` (a multiple of 32) of them.
static inline void score(const Shape& shape, const bf16* queries, const Packed& segment,
                         int64_t width, float* scores, int64_t stride, bool halved) {
  const int64_t dim = shape.padded_dim(), column = dim / 32 * TILE_BYTES;
  for (int64_t key = 0; key < width; key += BLOCK)
    multiply(queries, dim, 32, segment.keys + key / 16 * column, column, TILE_BYTES, dim / 32,
             scores + key, stride, halved);
}

// Weights of up to 32 query rows times the values of a segment.
static inline void gather(const Shape& shape, const bf16* weights, int64_t stride,
                          const Packed& segment, int64_t width, float* sums, bool halved,
                          bool more) {
  const int64_t dim = shape.padded_dim(), step = dim / 16 * TILE_BYTES;
  for (int64_t d = 0; d < dim; d += 32)
    multiply(weights, stride, 32, segment.values + d / 16 * TILE_BYTES, TILE_BYTES, step, width / 32,
             sums + d, dim, halved, more);
}

// The softmax of a row whose scores lie in several places: look at all, then write all.
class Softmax {
 public:
  explicit Softmax(float scale) : scale_(scale) {}

  void look(const float* scores, int64_t count) {
    v16 high = _mm512_set1_ps(top_);
    for (int64_t i = 0; i < count; i += 16) {
      __mmask16 m = first(count - i);
      high = _mm512_mask_max_ps(high, m, high, _mm512_maskz_loadu_ps(m, scores + i));
    }
    top_ = _mm512_reduce_max_ps(high);
  }

  // exp(scale (s - top)) of `count` scores in bfloat16, then zeros up to `width`.
  void write(const float* scores, int64_t count, int64_t width, bf16* to) {
    const v16 f = _mm512_set1_ps(scale_), t = _mm512_set1_ps(top_ * scale_);
    v16 sum = _mm512_setzero_ps();
    for (int64_t i = 0; i < width; i += 16) {
      __mmask16 m = first(count - i);
      v16 e = _mm512_setzero_ps();
      if (m) e = _mm512_maskz_mov_ps(m, exponential(_mm512_fmsub_ps(_mm512_loadu_ps(scores + i), f, t)));
      sum = _mm512_add_ps(sum, e);
      store(to + i, e, 0xffff);
    }
    total_ += _mm512_reduce_add_ps(sum);
  }

  float share() const { return 1.0f / total_; }
  float log_sum() const { return top_ * scale_ + std::log(total_); }

 private:
  float scale_, top_ = -INFINITY, total_ = 0;
};

static inline void copy_row(const bf16* from, int64_t dim, int64_t width, bf16* to) {
  for (int64_t d = 0; d < width; d += 16)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + d),
                        _mm256_maskz_loadu_epi16(first(dim - d), from + d));
}

static inline void store_row(const float* sums, float factor, int64_t dim, bf16* to) {
  const v16 f = _mm512_set1_ps(factor);
  for (int64_t d = 0; d < dim; d += 16)
    store(to + d, _mm512_mul_ps(_mm512_loadu_ps(sums + d), f), first(dim - d));
}

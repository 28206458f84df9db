// Matrix tiles (AMX): products of 32 rows with packed columns, and how columns are packed.
//
// A tile is 16 rows of 64 bytes. The right operand of a product pairs neighbouring rows: place
// (r, c) of its tile holds elements (2r, c) and (2r + 1, c). Rows and columns that do not exist
// are zeros.
#pragma once

#include <cstring>
#include <memory>

#include "vectors.h"

constexpr int64_t BLOCK = 32;        // query rows and keys that are worked on together
constexpr int64_t TILE_BYTES = 1024; // one packed tile

static inline int64_t padded(int64_t n) { return (n + BLOCK - 1) / BLOCK * BLOCK; }

// The tile instructions do not tell the compiler what they read: what was written must lie in
// memory before them.
static inline void settle() { asm volatile("" ::: "memory"); }

class Tiles {  // the calling thread's tile registers, all of full size
 public:
  Tiles() {
    alignas(64) uint8_t config[64] = {1};
    for (int i = 0; i < 8; ++i) {
      config[16 + 2 * i] = 64;
      config[48 + i] = 16;
    }
    settle();
    _tile_loadconfig(config);
  }
  ~Tiles() { _tile_release(); }
};

class Scratch {  // grows, keeps its memory, 64-byte aligned; contents undefined
 public:
  char* get(int64_t bytes) {
    if (bytes > size_) {
      memory_.reset(static_cast<char*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64)));
      size_ = bytes;
    }
    return memory_.get();
  }

 private:
  struct Free {
    void operator()(char* p) const { std::free(p); }
  };
  std::unique_ptr<char, Free> memory_;
  int64_t size_ = 0;
};

static inline void transpose(__m512i r[16]) {  // 16 x 16 elements of 32 bits
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 16; i += 8)
    for (int j = 0; j < 4; ++j) {
      t[i + j] = _mm512_shuffle_i32x4(r[i + j], r[i + j + 4], 0x88);
      t[i + j + 4] = _mm512_shuffle_i32x4(r[i + j], r[i + j + 4], 0xdd);
    }
  for (int j = 0; j < 8; ++j) {
    r[j] = _mm512_shuffle_i32x4(t[j], t[j + 8], 0x88);
    r[j + 8] = _mm512_shuffle_i32x4(t[j], t[j + 8], 0xdd);
  }
}

// Rows as columns: tiles [row / 16][dim / 32], the right operand of (anything) x rows^T.
static inline void pack_transposed(const bf16* rows, int64_t stride, int64_t count, int64_t dim,
                                   char* to) {
  for (int64_t row = 0; row < padded(count); row += 16)
    for (int64_t d = 0; d < dim; d += 32, to += TILE_BYTES) {
      __m512i r[16];
      __mmask32 m = dim - d >= 32 ? 0xffffffffu : (1u << (dim - d)) - 1;
      for (int i = 0; i < 16; ++i)
        r[i] = row + i < count ? _mm512_maskz_loadu_epi16(m, rows + (row + i) * stride + d)
                               : _mm512_setzero_si512();
      transpose(r);
      for (int i = 0; i < 16; ++i) _mm512_store_si512(to + 64 * i, r[i]);
    }
}

// 32 rows and 16 columns as one tile, the right operand of (anything) x rows.
static inline void pack_tile(const bf16* rows, int64_t stride, int64_t count, __mmask16 columns,
                             __m512i tile[16]) {
  for (int i = 0; i < 16; ++i) {
    __m256i a = _mm256_setzero_si256(), b = a;
    if (2 * i < count) a = _mm256_maskz_loadu_epi16(columns, rows + 2 * i * stride);
    if (2 * i + 1 < count) b = _mm256_maskz_loadu_epi16(columns, rows + (2 * i + 1) * stride);
    __m512i high = _mm512_slli_epi32(_mm512_cvtepu16_epi32(b), 16);
    tile[i] = _mm512_or_si512(_mm512_cvtepu16_epi32(a), high);
  }
}

static inline void write_tile(const __m512i tile[16], char* to) {
  for (int i = 0; i < 16; ++i) _mm512_store_si512(to + 64 * i, tile[i]);
}

// Rows as rows: tiles [row / 32][dim / 16], the right operand of (anything) x rows.
static inline void pack(const bf16* rows, int64_t stride, int64_t count, int64_t dim, char* to) {
  for (int64_t row = 0; row < padded(count); row += BLOCK)
    for (int64_t d = 0; d < padded(dim); d += 16, to += TILE_BYTES) {
      __m512i tile[16];
      pack_tile(rows + row * stride + d, stride, count - row, first(dim - d), tile);
      write_tile(tile, to);
    }
}

// Up to 32 rows of 32 columns, transposed: the left operand (32 x 32) of rows^T x (anything).
static inline void pack_left(const bf16* rows, int64_t stride, int64_t count, int64_t columns, char* to) {
  for (int64_t c = 0; c < BLOCK; c += 16, to += TILE_BYTES) {
    __m512i tile[16];
    pack_tile(rows + c, stride, count, first(columns - c), tile);
    transpose(tile);
    write_tile(tile, to);
  }
}

// c (32 x 32) = a (32 x 32 steps) b: a's steps are `a_step` elements apart, b's `b_step` bytes, the
// two columns of b's tiles `b_column` bytes.
// With `halved` the lower 16 rows do not matter; with `more` the product is added to c.
static inline void multiply(const bf16* a, int64_t a_stride, int64_t a_step, const char* b,
                            int64_t b_column, int64_t b_step, int64_t steps, float* c,
                            int64_t c_stride, bool halved, bool more = false) {
  settle();
  if (more) {
    _tile_loadd(0, c, 4 * c_stride);
    _tile_loadd(1, c + 16, 4 * c_stride);
    if (!halved) {
      _tile_loadd(2, c + 16 * c_stride, 4 * c_stride);
      _tile_loadd(3, c + 16 * c_stride + 16, 4 * c_stride);
    }
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t k = 0; k < steps; ++k, a += a_step, b += b_step) {
    _tile_loadd(4, a, 2 * a_stride);
    _tile_loadd(6, b, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, b + b_column, 64);
    _tile_dpbf16ps(1, 4, 7);
    if (!halved) {
      _tile_loadd(5, a + 16 * a_stride, 2 * a_stride);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, c, 4 * c_stride);
  _tile_stored(1, c + 16, 4 * c_stride);
  if (!halved) {
    _tile_stored(2, c + 16 * c_stride, 4 * c_stride);
    _tile_stored(3, c + 16 * c_stride + 16, 4 * c_stride);
  }
  settle();
}

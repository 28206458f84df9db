// The gradient of a product's weight, added to float32 in one step: c += a^T b, summed over tokens.

#include "tiles.h"

namespace {

// Blocks of 32 tokens between two visits to c: what a gives to a row of blocks stays in L2.
constexpr int64_t DEPTH = 64;

void pack_right(const bf16* b, int64_t stride, int64_t tokens, int64_t columns, char* to) {
  for (int64_t c = 0; c < BLOCK; c += 16, to += TILE_BYTES) {
    __m512i tile[16];
    pack_tile(b + c, stride, tokens, first(columns - c), tile);
    write_tile(tile, to);
  }
}

// A block at the edge of c: only what exists is added.
void add_edge(const float* block, int64_t rows, int64_t columns, float* c, int64_t stride) {
  for (int64_t r = 0; r < std::min(rows, BLOCK); ++r)
    for (int64_t i = 0; i < std::min(columns, BLOCK); i += 16) {
      __mmask16 m = first(columns - i);
      v16 sum = _mm512_add_ps(_mm512_loadu_ps(block + r * BLOCK + i),
                              _mm512_maskz_loadu_ps(m, c + r * stride + i));
      _mm512_mask_storeu_ps(c + r * stride + i, m, sum);
    }
}

}  // namespace

extern "C" {

// a (token, out) and b (token, in) contiguous; c (out, in) float32.
// memory: padded(tokens) * (padded(out) + padded(in)) * 2 bytes.
void cream_add_transposed_product(const bf16* a, const bf16* b, float* c, char* memory,
                                  int64_t tokens, int64_t out, int64_t in) {
  const int64_t steps = padded(tokens) / BLOCK, rows = padded(out) / BLOCK,
                columns = padded(in) / BLOCK, tile_pair = 2 * TILE_BYTES;
  char *left = memory, *right = memory + rows * steps * tile_pair;
#pragma omp parallel
  {
    Tiles tiles;
#pragma omp for schedule(static)
    for (int64_t item = 0; item < (rows + columns) * steps; ++item) {
      const int64_t panel = item / steps, token = item % steps * BLOCK;
      char* to = memory + item * tile_pair;
      if (panel < rows)
        pack_left(a + token * out + panel * BLOCK, out, tokens - token, out - panel * BLOCK, to);
      else
        pack_right(b + token * in + (panel - rows) * BLOCK, in, tokens - token,
                   in - (panel - rows) * BLOCK, to);
    }
#pragma omp for schedule(dynamic, 1)
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t step = 0; step < steps; step += DEPTH)
        for (int64_t column = 0; column < columns; ++column) {
          const int64_t deep = std::min(DEPTH, steps - step);
          const auto* from = reinterpret_cast<const bf16*>(left + (row * steps + step) * tile_pair);
          const char* by = right + (column * steps + step) * tile_pair;
          float* to = c + row * BLOCK * in + column * BLOCK;
          const bool whole = (row + 1) * BLOCK <= out && (column + 1) * BLOCK <= in;
          if (whole) {
            multiply(from, BLOCK, BLOCK * BLOCK, by, TILE_BYTES, tile_pair, deep, to, in, false,
                     true);
          } else {
            float block[BLOCK * BLOCK];
            multiply(from, BLOCK, BLOCK * BLOCK, by, TILE_BYTES, tile_pair, deep, block, BLOCK,
                     false);
            add_edge(block, out - row * BLOCK, in - column * BLOCK, to, in);
          }
        }
  }
}

}  // extern "C"

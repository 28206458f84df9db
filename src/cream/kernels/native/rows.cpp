// The elementwise parts of a decoder layer and of its head, each in one pass over memory.
// Formulas, roundings and layouts are those of cream.models.layer_ops and cream.engines.logsumexp.

#include <omp.h>

#include <cmath>
#include <vector>

#include "vectors.h"

extern "C" {

// y = w * (x * s) with s = 1 / sqrt(mean(x^2) + eps), the quotient rounded; s is kept per row.
void cream_rms_norm(const bf16* x, const bf16* w, bf16* y, float* scales, int64_t rows,
                    int64_t dim, float eps) {
#pragma omp parallel for
  for (int64_t row = 0; row < rows; ++row) {
    const bf16* in = x + row * dim;
    bf16* out = y + row * dim;
    v16 sum = _mm512_setzero_ps();
    for (int64_t i = 0; i < dim; i += 16) {
      v16 a = load(in + i, first(dim - i));
      sum = _mm512_fmadd_ps(a, a, sum);
    }
    float scale = 1.0f / std::sqrt(_mm512_reduce_add_ps(sum) / dim + eps);
    if (scales) scales[row] = scale;
    v16 s = _mm512_set1_ps(scale);
    for (int64_t i = 0; i < dim; i += 16) {
      __mmask16 m = first(dim - i);
      v16 n = rounded(_mm512_mul_ps(load(in + i, m), s));
      store(out + i, _mm512_mul_ps(n, load(w + i, m)), m);
    }
  }
}

// dx = s (g - n mean(g n)) with n = x s and g = dy w; dw += sum of dy n over the rows.
void cream_rms_norm_backward(const bf16* dy, const bf16* x, const bf16* w, const float* scales,
                             bf16* dx, float* dw, int64_t rows, int64_t dim) {
  // One sum per thread over its own rows, added up in order: the same bits every time.
  std::vector<float> partials(omp_get_max_threads() * dim, 0.0f);
#pragma omp parallel
  {
    float* partial = &partials[omp_get_thread_num() * dim];
#pragma omp for schedule(static)
    for (int64_t row = 0; row < rows; ++row) {
      const bf16 *in = x + row * dim, *up = dy + row * dim;
      v16 s = _mm512_set1_ps(scales[row]), along = _mm512_setzero_ps();
      for (int64_t i = 0; i < dim; i += 16) {
        __mmask16 m = first(dim - i);
        v16 n = rounded(_mm512_mul_ps(load(in + i, m), s));
        v16 product = _mm512_mul_ps(load(up + i, m), n);
        along = _mm512_fmadd_ps(product, load(w + i, m), along);
        v16 sum = _mm512_add_ps(_mm512_maskz_loadu_ps(m, partial + i), product);
        _mm512_mask_storeu_ps(partial + i, m, sum);
      }
      v16 mean = _mm512_set1_ps(_mm512_reduce_add_ps(along) / dim);
      for (int64_t i = 0; i < dim; i += 16) {
        __mmask16 m = first(dim - i);
        v16 n = rounded(_mm512_mul_ps(load(in + i, m), s));
        v16 g = _mm512_mul_ps(load(up + i, m), load(w + i, m));
        store(dx + row * dim + i, _mm512_mul_ps(_mm512_fnmadd_ps(n, mean, g), s), m);
      }
    }
  }
  for (size_t i = 0; i < partials.size(); ++i) dw[i % dim] += partials[i];
}

// y = silu(gate) * up of two halves side by side; silu rounded.
void cream_swiglu(const bf16* gate_up, bf16* y, int64_t rows, int64_t dim) {
#pragma omp parallel for
  for (int64_t row = 0; row < rows; ++row) {
    const bf16 *gate = gate_up + 2 * row * dim, *up = gate + dim;
    for (int64_t i = 0; i < dim; i += 16) {
      __mmask16 m = first(dim - i);
      v16 g = load(gate + i, m);
      v16 silu = rounded(_mm512_mul_ps(g, sigmoid(g)));
      store(y + row * dim + i, _mm512_mul_ps(silu, load(up + i, m)), m);
    }
  }
}

// d_up = dy silu(g), d_gate = dy up silu'(g) with silu'(g) = s (1 + g (1 - s)), s = sigmoid(g).
void cream_swiglu_backward(const bf16* dy, const bf16* gate_up, bf16* d_gate_up, int64_t rows,
                           int64_t dim) {
  const v16 one = _mm512_set1_ps(1.0f);
#pragma omp parallel for
  for (int64_t row = 0; row < rows; ++row) {
    const bf16 *gate = gate_up + 2 * row * dim, *up = gate + dim;
    bf16 *d_gate = d_gate_up + 2 * row * dim, *d_up = d_gate + dim;
    for (int64_t i = 0; i < dim; i += 16) {
      __mmask16 m = first(dim - i);
      v16 g = load(gate + i, m), u = load(up + i, m), d = load(dy + row * dim + i, m);
      v16 s = sigmoid(g);
      v16 slope = _mm512_mul_ps(s, _mm512_fmadd_ps(g, _mm512_sub_ps(one, s), one));
      store(d_up + i, _mm512_mul_ps(d, rounded(_mm512_mul_ps(g, s))), m);
      store(d_gate + i, _mm512_mul_ps(_mm512_mul_ps(d, u), slope), m);
    }
  }
}

// y = x cos + sign (-x2, x1) sin for the halves of every head; sign -1 is the derivative.
// cos and sin repeat their first half, so both halves of a head turn by the same angles.
void cream_rotate(const bf16* x, int64_t x_stride, const bf16* cos, const bf16* sin, bf16* y,
                  int64_t y_stride, int64_t tokens, int64_t heads, int64_t dim, float sign) {
  const int64_t half = dim / 2;
  const v16 direction = _mm512_set1_ps(sign);
#pragma omp parallel for
  for (int64_t token = 0; token < tokens; ++token) {
    for (int64_t i = 0; i < half; i += 16) {
      __mmask16 m = first(half - i);
      v16 c1 = load(cos + token * dim + i, m), c2 = load(cos + token * dim + half + i, m);
      v16 s1 = _mm512_mul_ps(load(sin + token * dim + i, m), direction);
      v16 s2 = _mm512_mul_ps(load(sin + token * dim + half + i, m), direction);
      for (int64_t head = 0; head < heads; ++head) {
        const bf16* in = x + token * x_stride + head * dim + i;
        bf16* out = y + token * y_stride + head * dim + i;
        v16 a = load(in, m), b = load(in + half, m);
        store(out, _mm512_fnmadd_ps(b, s1, _mm512_mul_ps(a, c1)), m);
        store(out + half, _mm512_fmadd_ps(a, s2, _mm512_mul_ps(b, c2)), m);
      }
    }
  }
}

// log(sum(exp(x * factor))) of every row.
void cream_log_normalisers(const bf16* x, float* out, int64_t rows, int64_t dim, float factor) {
  const v16 f = _mm512_set1_ps(factor);
  const v16 lowest = _mm512_set1_ps(-INFINITY);
#pragma omp parallel for
  for (int64_t row = 0; row < rows; ++row) {
    const bf16* in = x + row * dim;
    v16 high = lowest;
    for (int64_t i = 0; i < dim; i += 16) {
      __mmask16 m = first(dim - i);
      high = _mm512_mask_max_ps(high, m, high, load(in + i, m));
    }
    float top = _mm512_reduce_max_ps(high) * factor;
    if (top == INFINITY) {
      out[row] = top;
      continue;
    }
    if (top == -INFINITY) top = 0.0f;  // the sum is 0 then, its logarithm minus infinity
    v16 t = _mm512_set1_ps(top), sum = _mm512_setzero_ps();
    for (int64_t i = 0; i < dim; i += 16) {
      __mmask16 m = first(dim - i);
      v16 e = exponential(_mm512_fmsub_ps(load(in + i, m), f, t));
      sum = _mm512_mask_add_ps(sum, m, sum, e);
    }
    out[row] = top + std::log(_mm512_reduce_add_ps(sum));
  }
}

}  // extern "C"

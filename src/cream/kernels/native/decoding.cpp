// Attention of one decoding step: every live row has one new token, which sees its group's prompt
// (stored once) and the row's own tokens. The rows of a group are the query rows of one product
// with the prompt; own tokens are too few for tiles. Same arithmetic as in attention.cpp.

#include <vector>

#include "attention.h"

namespace {

struct Group {
  int64_t slot, first, rows;  // live rows first, first + 1, ... belong to it
};

struct Step {
  const bf16 *q, *k, *v;
  Strides qs, ks, vs;
  const int64_t *rows, *at, *prompt_lengths;
  const bf16 *prompt_keys, *prompt_values;
  int64_t prompt_capacity;
  bf16 *own_keys, *own_values;
  int64_t own_capacity;
  bf16* out;
};

class Worker {  // one thread's buffers
 public:
  explicit Worker(const Shape& shape) : shape_(shape) {}

  void attend(const Step& step, const Group& group, int64_t kv_head) {
    const int64_t heads = shape_.group(), dim = shape_.padded_dim();
    const int64_t stored = (group.slot * shape_.kv_heads + kv_head) * step.prompt_capacity;
    const int64_t length = step.prompt_lengths[group.slot];
    const Packed prompt =
        pack_segment(shape_, step.prompt_keys + stored * shape_.dim, shape_.dim,
                     step.prompt_values + stored * shape_.dim, shape_.dim, length,
                     packed_.get(2 * shape_.packed_bytes(length)));
    int64_t own = 0;
    for (int64_t i = group.first; i < group.first + group.rows; ++i) {
      append(step, i, kv_head);
      own = std::max(own, step.at[i] + 1);
    }
    const int64_t before = padded(length), width = before + padded(own);
    auto* queries = reinterpret_cast<bf16*>(queries_.get(BLOCK * dim * 2));
    auto* scores = reinterpret_cast<float*>(scores_.get(BLOCK * width * 4));
    auto* weights = reinterpret_cast<bf16*>(weights_.get(BLOCK * width * 2));
    auto* sums = reinterpret_cast<float*>(sums_.get(BLOCK * dim * 4));
    for (int64_t start = 0; start < group.rows * heads; start += BLOCK) {
      const int64_t count = std::min(BLOCK, group.rows * heads - start);
      const bool halved = count <= 16;
      for (int64_t r = 0; r < count; ++r) {
        const int64_t i = group.first + (start + r) / heads;
        const int64_t head = kv_head * heads + (start + r) % heads;
        copy_row(step.q + i * step.qs.token + head * step.qs.head, shape_.dim, dim,
                 queries + r * dim);
      }
      score(shape_, queries, prompt, before, scores, width, halved);
      float shares[BLOCK];
      for (int64_t r = 0; r < count; ++r) {
        const int64_t i = group.first + (start + r) / heads, seen = step.at[i] + 1;
        float* row = scores + r * width;
        bf16* to = weights + r * width;
        own_scores(queries + r * dim, step.own_keys + own_place(step, i, kv_head), seen,
                   row + before);
        Softmax softmax(shape_.scale);
        softmax.look(row, length);
        softmax.look(row + before, seen);
        softmax.write(row, length, before, to);
        softmax.write(row + before, seen, padded(seen), to + before);
        shares[r] = softmax.share();
      }
      gather(shape_, weights, width, prompt, before, sums, halved, false);
      for (int64_t r = 0; r < count; ++r) {
        const int64_t i = group.first + (start + r) / heads;
        const int64_t head = kv_head * heads + (start + r) % heads;
        add_own(weights + r * width + before, step.own_values + own_place(step, i, kv_head),
                step.at[i] + 1, sums + r * dim);
        store_row(sums + r * dim, shares[r], shape_.dim,
                  step.out + (i * shape_.heads + head) * shape_.dim);
      }
    }
  }

 private:
  int64_t own_place(const Step& step, int64_t i, int64_t kv_head) const {
    return (step.rows[i] * shape_.kv_heads + kv_head) * step.own_capacity * shape_.dim;
  }

  void append(const Step& step, int64_t i, int64_t kv_head) const {
    const int64_t place = own_place(step, i, kv_head) + step.at[i] * shape_.dim;
    const bf16* key = step.k + i * step.ks.token + kv_head * step.ks.head;
    const bf16* value = step.v + i * step.vs.token + kv_head * step.vs.head;
    std::memcpy(step.own_keys + place, key, 2 * shape_.dim);
    std::memcpy(step.own_values + place, value, 2 * shape_.dim);
  }

  void own_scores(const bf16* query, const bf16* keys, int64_t count, float* to) const {
    for (int64_t key = 0; key < count; ++key, keys += shape_.dim) {
      v16 sum = _mm512_setzero_ps();
      for (int64_t d = 0; d < shape_.dim; d += 32) {
        __mmask32 m = shape_.dim - d >= 32 ? 0xffffffffu : (1u << (shape_.dim - d)) - 1;
        sum = _mm512_dpbf16_ps(sum, (__m512bh)_mm512_maskz_loadu_epi16(m, keys + d),
                               (__m512bh)_mm512_maskz_loadu_epi16(m, query + d));
      }
      to[key] = _mm512_reduce_add_ps(sum);
    }
  }

  void add_own(const bf16* weights, const bf16* values, int64_t count, float* sums) const {
    for (int64_t d = 0; d < shape_.dim; d += 16) {
      const __mmask16 m = first(shape_.dim - d);
      v16 sum = _mm512_loadu_ps(sums + d);
      for (int64_t key = 0; key < count; ++key) {
        const uint32_t bits = static_cast<uint32_t>(weights[key]) << 16;
        const v16 weight = _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(bits)));
        sum = _mm512_fmadd_ps(weight, load(values + key * shape_.dim + d, m), sum);
      }
      _mm512_storeu_ps(sums + d, sum);
    }
  }

  const Shape& shape_;
  Scratch packed_, queries_, scores_, weights_, sums_;
};

}  // namespace

extern "C" {

// q, k, v: new tokens of `live` rows, strides (token, head). rows: their slots, rising. at: index
// of the new token among the row's own. prompts: (group, kv_head, capacity, dim), prompt_lengths
// per group. own: (row, kv_head, capacity, dim); the new keys and values are written there. out:
// (live, head, dim). Row slot = group slot * members + member.
void cream_decode(const bf16* q, const int64_t* q_strides, const bf16* k, const int64_t* k_strides,
                  const bf16* v, const int64_t* v_strides, const int64_t* rows, const int64_t* at,
                  int64_t live, const int64_t* prompt_lengths, const bf16* prompt_keys,
                  const bf16* prompt_values, int64_t prompt_capacity, bf16* own_keys,
                  bf16* own_values, int64_t own_capacity, bf16* out, int64_t members,
                  int64_t heads, int64_t kv_heads, int64_t dim, float scale) {
  const Shape shape{heads, kv_heads, dim, scale};
  const Step step{q, k, v, {q_strides[0], q_strides[1]}, {k_strides[0], k_strides[1]},
                  {v_strides[0], v_strides[1]}, rows, at, prompt_lengths, prompt_keys,
                  prompt_values, prompt_capacity, own_keys, own_values, own_capacity, out};
  std::vector<Group> groups;
  for (int64_t i = 0; i < live; ++i) {
    const int64_t slot = rows[i] / members;
    if (groups.empty() || groups.back().slot != slot) groups.push_back({slot, i, 0});
    ++groups.back().rows;
  }
  const int64_t items = static_cast<int64_t>(groups.size()) * kv_heads;
#pragma omp parallel
  {
    Tiles tiles;
    Worker worker(shape);
#pragma omp for schedule(dynamic, 1)
    for (int64_t item = 0; item < items; ++item)
      worker.attend(step, groups[item / kv_heads], item % kv_heads);
  }
}

}  // extern "C"

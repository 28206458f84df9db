// Gradients of the attention in attention.cpp. Weights are computed again from the log-sum-exps of
// the forward pass (Dao et al. 2022, arXiv 2205.14135, algorithm 4):
//
//   P = exp(scale q k - lse), dv += P^T do, dP = do v^T, dS = scale P (dP - sum(do o)),
//   dq = dS k, dk += dS^T q.
//
// A prompt and its completions with one key head are one piece of work, so that every sum has one
// owner and one order.

#include <vector>

#include "attention.h"

namespace {

struct Keys {  // of one segment: packed for the four products, and where their gradients add up
  const Segment* segment;
  const char *keys_transposed, *values_transposed, *keys;
  float *d_keys, *d_values;

  int64_t width() const { return padded(segment->length); }
};

struct Inputs {
  Stream q, k, v, out, d_out;
  const float* lse;
  bf16 *dq, *dk, *dv;
};

class Worker {  // one thread's buffers
 public:
  Worker(const Shape& shape, const Inputs& in) : shape_(shape), in_(in) {}

  // All query rows of a segment; the gradients of the keys they see are added up.
  void walk(const Keys& own, const Keys* parent, int64_t kv_head) {
    const Segment& segment = *own.segment;
    const int64_t group = shape_.group(), dim = shape_.padded_dim();
    const int64_t before = parent ? parent->width() : 0, width = before + own.width();
    auto* queries = reinterpret_cast<bf16*>(queries_.get(2 * BLOCK * dim * 2));
    bf16* upstream = queries + BLOCK * dim;
    auto* scores = reinterpret_cast<float*>(scores_.get(2 * BLOCK * width * 4));
    float* d_weights = scores + BLOCK * width;
    auto* weights = reinterpret_cast<bf16*>(weights_.get(2 * BLOCK * width * 2));
    bf16* d_scores = weights + BLOCK * width;
    auto* d_queries = reinterpret_cast<float*>(sums_.get(BLOCK * dim * 4));
    for (int64_t start = 0; start < segment.length * group; start += BLOCK) {
      const int64_t count = std::min(BLOCK, segment.length * group - start);
      const int64_t own_width = padded((start + count - 1) / group + 1);
      std::fill_n(queries, 2 * BLOCK * dim, 0);
      for (int64_t r = 0; r < count; ++r) {
        const int64_t token = segment.start + (start + r) / group;
        const int64_t head = kv_head * group + (start + r) % group;
        copy_row(in_.q.at(token, head), shape_.dim, dim, queries + r * dim);
        copy_row(in_.d_out.at(token, head), shape_.dim, dim, upstream + r * dim);
      }
      if (parent) products(queries, upstream, *parent, before, scores, d_weights, width);
      products(queries, upstream, own, own_width, scores + before, d_weights + before, width);
      std::fill_n(weights, 2 * BLOCK * width, 0);
      for (int64_t r = 0; r < count; ++r) {
        const int64_t token = (start + r) / group, head = kv_head * group + (start + r) % group;
        const float lse = in_.lse[(segment.start + token) * shape_.heads + head];
        const float along = dot(in_.out.at(segment.start + token, head), upstream + r * dim);
        const int64_t at = r * width;
        if (parent)
          derive(scores + at, d_weights + at, parent->segment->length, lse, along, weights + at,
                 d_scores + at);
        derive(scores + at + before, d_weights + at + before, token + 1, lse, along,
               weights + at + before, d_scores + at + before);
      }
      const int64_t step = dim / 16 * TILE_BYTES;
      for (int64_t d = 0; d < dim; d += 32) {
        const int64_t column = d / 16 * TILE_BYTES;
        if (parent)
          multiply(d_scores, width, 32, parent->keys + column, TILE_BYTES, step, before / 32,
                   d_queries + d, dim, false);
        multiply(d_scores + before, width, 32, own.keys + column, TILE_BYTES, step, own_width / 32,
                 d_queries + d, dim, false, parent != nullptr);
      }
      for (int64_t r = 0; r < count; ++r) {
        const int64_t token = segment.start + (start + r) / group;
        const int64_t head = kv_head * group + (start + r) % group;
        store_row(d_queries + r * dim, 1.0f, shape_.dim,
                  in_.dq + (token * shape_.heads + head) * shape_.dim);
      }
      char* packed = packed_.get(4 * BLOCK * dim * 2);
      pack(queries, dim, BLOCK, dim, packed);
      pack(upstream, dim, BLOCK, dim, packed + BLOCK * dim * 2);
      if (parent) add_up(weights, d_scores, width, before, packed, *parent);
      add_up(weights + before, d_scores + before, width, own_width, packed, own);
    }
  }

  Keys prepare(const Segment& segment, int64_t kv_head, Scratch& memory) const {
    const int64_t bytes = shape_.packed_bytes(segment.length);
    const int64_t sums = padded(segment.length) * shape_.padded_dim();
    char* at = memory.get(3 * bytes + 2 * sums * 4);
    const bf16 *k = in_.k.at(segment.start, kv_head), *v = in_.v.at(segment.start, kv_head);
    pack_transposed(k, in_.k.strides.token, segment.length, shape_.dim, at);
    pack_transposed(v, in_.v.strides.token, segment.length, shape_.dim, at + bytes);
    pack(k, in_.k.strides.token, segment.length, shape_.dim, at + 2 * bytes);
    auto* gradients = reinterpret_cast<float*>(at + 3 * bytes);
    std::fill_n(gradients, 2 * sums, 0.0f);
    return {&segment, at, at + bytes, at + 2 * bytes, gradients, gradients + sums};
  }

  void finish(const Keys& keys, int64_t kv_head) const {
    const int64_t dim = shape_.padded_dim();
    for (int64_t key = 0; key < keys.segment->length; ++key) {
      const int64_t place =
          ((keys.segment->start + key) * shape_.kv_heads + kv_head) * shape_.dim;
      store_row(keys.d_keys + key * dim, 1.0f, shape_.dim, in_.dk + place);
      store_row(keys.d_values + key * dim, 1.0f, shape_.dim, in_.dv + place);
    }
  }

  Scratch parent_memory, own_memory;

 private:
  void products(const bf16* queries, const bf16* upstream, const Keys& keys, int64_t width,
                float* scores, float* d_weights, int64_t stride) const {
    const int64_t dim = shape_.padded_dim(), column = dim / 32 * TILE_BYTES;
    for (int64_t key = 0; key < width; key += BLOCK) {
      const int64_t at = key / 16 * column;
      multiply(queries, dim, 32, keys.keys_transposed + at, column, TILE_BYTES, dim / 32,
               scores + key, stride, false);
      multiply(upstream, dim, 32, keys.values_transposed + at, column, TILE_BYTES, dim / 32,
               d_weights + key, stride, false);
    }
  }

  void derive(const float* scores, const float* d_weights, int64_t count, float lse, float along,
              bf16* weights, bf16* d_scores) const {
    const v16 f = _mm512_set1_ps(shape_.scale), l = _mm512_set1_ps(lse),
              a = _mm512_set1_ps(along);
    for (int64_t i = 0; i < count; i += 16) {
      const __mmask16 m = first(count - i);
      const v16 p = exponential(_mm512_fmsub_ps(_mm512_loadu_ps(scores + i), f, l));
      const v16 d = _mm512_sub_ps(_mm512_loadu_ps(d_weights + i), a);
      store(weights + i, p, m);
      store(d_scores + i, _mm512_mul_ps(_mm512_mul_ps(p, d), f), m);
    }
  }

  // dv += weights^T upstream, dk += d_scores^T queries; packed holds queries, then upstream.
  void add_up(const bf16* weights, const bf16* d_scores, int64_t stride, int64_t width,
              const char* packed, const Keys& keys) {
    const int64_t dim = shape_.padded_dim();
    auto* left = reinterpret_cast<bf16*>(left_.get(2 * TILE_BYTES));
    for (int64_t key = 0; key < width; key += BLOCK)
      for (int part = 0; part < 2; ++part) {
        pack_left((part ? weights : d_scores) + key, stride, BLOCK, BLOCK,
                  reinterpret_cast<char*>(left));
        const char* right = packed + part * BLOCK * dim * 2;
        float* to = (part ? keys.d_values : keys.d_keys) + key * dim;
        for (int64_t d = 0; d < dim; d += 32)
          multiply(left, BLOCK, 0, right + d / 16 * TILE_BYTES, TILE_BYTES, 0, 1, to + d, dim,
                   false, true);
      }
  }

  float dot(const bf16* out, const bf16* upstream) const {
    v16 sum = _mm512_setzero_ps();
    for (int64_t d = 0; d < shape_.dim; d += 16) {
      const __mmask16 m = first(shape_.dim - d);
      sum = _mm512_fmadd_ps(load(out + d, m), load(upstream + d, m), sum);
    }
    return _mm512_reduce_add_ps(sum);
  }

  const Shape& shape_;
  const Inputs& in_;
  Scratch queries_, scores_, weights_, sums_, packed_, left_;
};

}  // namespace

extern "C" {

// As cream_attention; out and d_out (token, head, dim) contiguous, lse (token, head) from there.
// dq, dk, dv: (token, head, dim), contiguous.
void cream_attention_backward(const bf16* q, const int64_t* q_strides, const bf16* k,
                              const int64_t* k_strides, const bf16* v, const int64_t* v_strides,
                              const bf16* out, const bf16* d_out, const float* lse, bf16* dq,
                              bf16* dk, bf16* dv, const int64_t* segments, int64_t count,
                              int64_t heads, int64_t kv_heads, int64_t dim, float scale) {
  const Shape shape{heads, kv_heads, dim, scale};
  const Strides plain{heads * dim, dim};
  const Inputs in{{q, {q_strides[0], q_strides[1]}}, {k, {k_strides[0], k_strides[1]}},
                  {v, {v_strides[0], v_strides[1]}}, {out, plain}, {d_out, plain}, lse, dq, dk, dv};
  const auto* list = reinterpret_cast<const Segment*>(segments);
  std::vector<std::vector<int64_t>> families;  // a prompt, then its completions
  std::vector<int64_t> family_of(count);
  for (int64_t i = 0; i < count; ++i) {
    if (list[i].parent < 0) families.emplace_back();
    family_of[i] = list[i].parent < 0 ? static_cast<int64_t>(families.size()) - 1
                                      : family_of[list[i].parent];
    families[family_of[i]].push_back(i);
  }
  const int64_t items = static_cast<int64_t>(families.size()) * kv_heads;
#pragma omp parallel
  {
    Tiles tiles;
    Worker worker(shape, in);
#pragma omp for schedule(dynamic, 1)
    for (int64_t item = 0; item < items; ++item) {
      const std::vector<int64_t>& family = families[item / kv_heads];
      const int64_t head = item % kv_heads;
      const Keys prompt = worker.prepare(list[family[0]], head, worker.parent_memory);
      worker.walk(prompt, nullptr, head);
      for (size_t i = 1; i < family.size(); ++i) {
        const Keys own = worker.prepare(list[family[i]], head, worker.own_memory);
        worker.walk(own, &prompt, head);
        worker.finish(own, head);
      }
      worker.finish(prompt, head);
    }
  }
}

}  // extern "C"

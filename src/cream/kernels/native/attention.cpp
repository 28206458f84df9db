// Attention of a packed stream: every token sees its segment's parent (whole) and its own segment
// up to itself. A segment is a prompt (no parent) or a completion (its prompt is the parent).
//
// A block of query rows has all its scores at once, so the softmax is the plain one: scores in
// float32, weights in bfloat16, sums in float32.

#include "attention.h"

namespace {

class Worker {  // one thread's buffers
 public:
  explicit Worker(const Shape& shape) : shape_(shape) {}

  // All query rows of a segment and a key head. Row r is token r / group, head r % group.
  void attend(const Stream& q, bf16* out, float* lse, const Segment& segment, int64_t kv_head,
              const Packed* parent, const Packed& own) {
    const int64_t group = shape_.group(), rows = segment.length * group;
    const int64_t dim = shape_.padded_dim(), before = parent ? padded(parent->length) : 0;
    const int64_t width = before + padded(segment.length);
    auto* queries = reinterpret_cast<bf16*>(queries_.get(BLOCK * dim * 2));
    auto* scores = reinterpret_cast<float*>(scores_.get(BLOCK * width * 4));
    auto* weights = reinterpret_cast<bf16*>(weights_.get(BLOCK * width * 2));
    auto* sums = reinterpret_cast<float*>(sums_.get(BLOCK * dim * 4));
    for (int64_t start = 0; start < rows; start += BLOCK) {
      const int64_t count = std::min(BLOCK, rows - start);
      const bool halved = count <= 16;
      const int64_t own_width = padded((start + count - 1) / group + 1);
      for (int64_t r = 0; r < count; ++r) {
        const int64_t row = start + r;
        copy_row(q.at(segment.start + row / group, kv_head * group + row % group), shape_.dim, dim,
                 queries + r * dim);
      }
      if (parent) score(shape_, queries, *parent, before, scores, width, halved);
      score(shape_, queries, own, own_width, scores + before, width, halved);
      float shares[BLOCK];
      for (int64_t r = 0; r < count; ++r) {
        const int64_t token = (start + r) / group, head = kv_head * group + (start + r) % group;
        const float* row = scores + r * width;
        bf16* to = weights + r * width;
        Softmax softmax(shape_.scale);
        if (parent) softmax.look(row, parent->length);
        softmax.look(row + before, token + 1);
        if (parent) softmax.write(row, parent->length, before, to);
        softmax.write(row + before, token + 1, own_width, to + before);
        shares[r] = softmax.share();
        if (lse) lse[(segment.start + token) * shape_.heads + head] = softmax.log_sum();
      }
      if (parent) gather(shape_, weights, width, *parent, before, sums, halved, false);
      gather(shape_, weights + before, width, own, own_width, sums, halved, parent != nullptr);
      for (int64_t r = 0; r < count; ++r) {
        const int64_t token = (start + r) / group, head = kv_head * group + (start + r) % group;
        bf16* to = out + ((segment.start + token) * shape_.heads + head) * shape_.dim;
        store_row(sums + r * dim, shares[r], shape_.dim, to);
      }
    }
  }

  char* memory(int64_t bytes) { return own_.get(bytes); }

 private:
  const Shape& shape_;
  Scratch queries_, scores_, weights_, sums_, own_;
};

}  // namespace

extern "C" {

// q, k, v: strides (token, head) in elements. out: (token, head, dim), contiguous. lse: (token,
// head) or null. segments: (count, 3) of start, length, parent. packed: memory for what is shared,
// offsets[i] bytes from its start for segment i, or -1 where a segment is no one's parent.
void cream_attention(const bf16* q, const int64_t* q_strides, const bf16* k,
                     const int64_t* k_strides, const bf16* v, const int64_t* v_strides, bf16* out,
                     float* lse, const int64_t* segments, int64_t count, const int64_t* offsets,
                     char* packed, int64_t heads, int64_t kv_heads, int64_t dim, float scale) {
  const Shape shape{heads, kv_heads, dim, scale};
  const Stream queries{q, {q_strides[0], q_strides[1]}}, keys{k, {k_strides[0], k_strides[1]}},
      values{v, {v_strides[0], v_strides[1]}};
  const auto* list = reinterpret_cast<const Segment*>(segments);
  const int64_t items = count * kv_heads;
  auto pack_into = [&](const Segment& s, int64_t head, char* to) {
    return pack_segment(shape, keys.at(s.start, head), keys.strides.token,
                        values.at(s.start, head), values.strides.token, s.length, to);
  };
  auto shared = [&](int64_t index, int64_t head) {
    const int64_t bytes = shape.packed_bytes(list[index].length);
    char* at = packed + offsets[index] + head * 2 * bytes;
    return Packed{at, at + bytes, list[index].length};
  };
#pragma omp parallel
  {
    Tiles tiles;
    Worker worker(shape);
#pragma omp for schedule(dynamic, 1)
    for (int64_t item = 0; item < items; ++item) {
      const int64_t index = item / kv_heads, head = item % kv_heads;
      if (offsets[index] >= 0)
        pack_into(list[index], head, const_cast<char*>(shared(index, head).keys));
    }
#pragma omp for schedule(dynamic, 1)
    for (int64_t item = 0; item < items; ++item) {
      const int64_t index = item / kv_heads, head = item % kv_heads;
      const Segment& segment = list[index];
      const Packed own =
          offsets[index] >= 0
              ? shared(index, head)
              : pack_into(segment, head, worker.memory(2 * shape.packed_bytes(segment.length)));
      Packed parent{};
      if (segment.parent >= 0) parent = shared(segment.parent, head);
      worker.attend(queries, out, lse, segment, head, segment.parent >= 0 ? &parent : nullptr, own);
    }
  }
}

}  // extern "C"

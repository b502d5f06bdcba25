// Element-wise work of a decoder, one pass each: normalisation, rotary positions, gated activations, cross-entropy,
// causal softmax. Not here: matrix products (torch's are better), and anything that knows a model.
//
// Every function works on rows that do not depend on each other, in fp32 whatever the storage (bf16 or fp32), so the
// number of threads does not change a bit of the result. Called through ctypes; kernels.py has the plain twins.
// Sizes and strides count elements. `half` says that the storage is bf16.

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#define BLOCK 1024  // elements of a row held in fp32 at once: a few of these fit in the first-level cache
#define EACH_ROW _Pragma("omp parallel for schedule(static) num_threads(threads) if (threads > 1)")

typedef int64_t i64;

static inline float from_half(uint16_t h) {
  union { uint32_t bits; float value; } u = {(uint32_t)h << 16};
  return u.value;
}

// Round to nearest, ties to even; a NaN stays one.
static inline uint16_t to_half(float f) {
  union { float value; uint32_t bits; } u = {f};
  uint32_t rounded = (u.bits + 0x7fff + ((u.bits >> 16) & 1)) >> 16;
  uint32_t nan = (u.bits >> 16) | 0x40;
  return (uint16_t)((u.bits & 0x7fffffff) > 0x7f800000 ? nan : rounded);
}

static inline const void *shift(const void *p, int half, i64 by) { return (const char *)p + by * (half ? 2 : 4); }
static inline void *place(void *p, int half, i64 by) { return (char *)p + by * (half ? 2 : 4); }

static inline void load(float *restrict to, const void *restrict from, int half, i64 n) {
  if (half) {
    const uint16_t *h = from;
    for (i64 j = 0; j < n; j++) to[j] = from_half(h[j]);
  } else {
    memcpy(to, from, n * 4);
  }
}

static inline void store(void *restrict to, const float *restrict from, int half, i64 n) {
  if (half) {
    uint16_t *h = to;
    i64 j = 0;
#ifdef __AVX512BF16__  // the same rounding in one instruction
    for (; j + 16 <= n; j += 16) {
      __m256bh rounded = _mm512_cvtneps_pbh(_mm512_loadu_ps(from + j));
      memcpy(h + j, &rounded, 32);
    }
#endif
    for (; j < n; j++) h[j] = to_half(from[j]);
  } else {
    memcpy(to, from, n * 4);
  }
}

// e^x within 2 units in the last place (Cody and Waite 1980: reduce by ln 2, then a polynomial); NaN stays NaN.
static inline float exponential(float x) {
  x = x > 88.0f ? 88.0f : x;
  x = x < -87.0f ? -87.0f : x;
  float n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;  // nearest whole number
  float r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  union { int32_t bits; float value; } u = {((int32_t)n + 127) << 23};
  return p * u.value;
}

static inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

// y = x / sqrt(mean(x²) + eps) · w   (Zhang and Sennrich 2019). Row i stands at x + (i / inner)·outer + (i % inner)·D.
void norm(const void *x, int x_half, const float *w, void *y, int y_half, float *r, i64 rows, i64 D, i64 inner,
          i64 outer, float eps, int threads) {
  EACH_ROW
  for (i64 i = 0; i < rows; i++) {
    const void *row = shift(x, x_half, (i / inner) * outer + (i % inner) * D);
    void *out = place(y, y_half, i * D);
    float a[BLOCK], sum = 0;
    for (i64 at = 0; at < D; at += BLOCK) {
      i64 n = D - at < BLOCK ? D - at : BLOCK;
      load(a, shift(row, x_half, at), x_half, n);
#pragma omp simd reduction(+ : sum)
      for (i64 j = 0; j < n; j++) sum += a[j] * a[j];
    }
    float scale = r[i] = 1.0f / sqrtf(sum / (float)D + eps);
    for (i64 at = 0; at < D; at += BLOCK) {
      i64 n = D - at < BLOCK ? D - at : BLOCK;
      if (D > BLOCK) load(a, shift(row, x_half, at), x_half, n);
      for (i64 j = 0; j < n; j++) a[j] = a[j] * scale * w[at + j];
      store(place(out, y_half, at), a, y_half, n);
    }
  }
}

// dx = r·(g·w) - x·r³·mean(g·w·x)
void norm_back(const void *g, int g_half, const void *x, int x_half, const float *r, const float *w, void *dx,
               i64 rows, i64 D, i64 inner, i64 outer, int threads) {
  EACH_ROW
  for (i64 i = 0; i < rows; i++) {
    const void *row = shift(x, x_half, (i / inner) * outer + (i % inner) * D);
    const void *grad = shift(g, g_half, i * D);
    void *out = place(dx, x_half, i * D);
    float a[BLOCK], b[BLOCK], sum = 0, scale = r[i];
    for (i64 at = 0; at < D; at += BLOCK) {
      i64 n = D - at < BLOCK ? D - at : BLOCK;
      load(a, shift(row, x_half, at), x_half, n);
      load(b, shift(grad, g_half, at), g_half, n);
#pragma omp simd reduction(+ : sum)
      for (i64 j = 0; j < n; j++) sum += a[j] * b[j] * w[at + j];
    }
    float back = sum / (float)D * scale * scale * scale;
    for (i64 at = 0; at < D; at += BLOCK) {
      i64 n = D - at < BLOCK ? D - at : BLOCK;
      if (D > BLOCK) {
        load(a, shift(row, x_half, at), x_half, n);
        load(b, shift(grad, g_half, at), g_half, n);
      }
      for (i64 j = 0; j < n; j++) a[j] = b[j] * w[at + j] * scale - a[j] * back;
      store(place(out, x_half, at), a, x_half, n);
    }
  }
}

// Rotary positions (Su et al. 2021) on the first R of D numbers of each head, halves paired as transformers does:
// y₁ = x₁c₁ - x₂s₁, y₂ = x₂c₂ + x₁s₂; or its transpose. cos and sin are [T, R]. The rest of a head is copied, so R = 0
// is a copy. `y` may be `x`.
void rotate(const void *x, i64 x_token, i64 x_head, void *y, i64 y_token, i64 y_head, int half, const float *cos,
            const float *sin, i64 T, i64 heads, i64 D, i64 R, int transposed, int threads) {
  EACH_ROW
  for (i64 t = 0; t < T; t++) {
    const float *c1 = cos + t * R, *s1 = sin + t * R, *c2 = c1 + R / 2, *s2 = s1 + R / 2;
    float a[2 * BLOCK];
    for (i64 h = 0; h < heads; h++) {
      load(a, shift(x, half, t * x_token + h * x_head), half, D);
      float *lo = a, *hi = a + R / 2;
      if (transposed) {
        for (i64 j = 0; j < R / 2; j++) {
          float u = lo[j], v = hi[j];
          lo[j] = u * c1[j] + v * s2[j];
          hi[j] = v * c2[j] - u * s1[j];
        }
      } else {
        for (i64 j = 0; j < R / 2; j++) {
          float u = lo[j], v = hi[j];
          lo[j] = u * c1[j] - v * s1[j];
          hi[j] = v * c2[j] + u * s2[j];
        }
      }
      store(place(y, half, t * y_token + h * y_head), a, half, D);
    }
  }
}

#define GELU_A 0.7978845608028654f  // sqrt(2/π)
#define GELU_B 0.044715f

static inline void gate_block(const float *restrict g, const float *restrict u, float *restrict h, i64 n, int gelu) {
  if (gelu) {
    // tanh(z) = 2·sigmoid(2z) - 1, so the tanh form of GELU (Hendrycks and Gimpel 2016) is x·sigmoid(2z)
    for (i64 j = 0; j < n; j++) h[j] = g[j] * sigmoid(2 * GELU_A * (g[j] + GELU_B * g[j] * g[j] * g[j])) * u[j];
  } else {
    for (i64 j = 0; j < n; j++) h[j] = g[j] * sigmoid(g[j]) * u[j];
  }
}

// h = act(g)·u   (Shazeer 2020)
void gate(const void *g, i64 g_stride, const void *u, i64 u_stride, void *h, int half, i64 T, i64 F, int gelu,
          int threads) {
  EACH_ROW
  for (i64 t = 0; t < T; t++) {
    float a[BLOCK], b[BLOCK], c[BLOCK];
    for (i64 at = 0; at < F; at += BLOCK) {
      i64 n = F - at < BLOCK ? F - at : BLOCK;
      load(a, shift(g, half, t * g_stride + at), half, n);
      load(b, shift(u, half, t * u_stride + at), half, n);
      gate_block(a, b, c, n, gelu);
      store(place(h, half, t * F + at), c, half, n);
    }
  }
}

// dg = dh·u·act'(g), du = dh·act(g); h is computed again on the way when it is wanted (not null).
void gate_back(const void *dh, const void *g, i64 g_stride, const void *u, i64 u_stride, void *dg, void *du,
               i64 d_stride, void *h, int half, i64 T, i64 F, int gelu, int threads) {
  EACH_ROW
  for (i64 t = 0; t < T; t++) {
    float a[BLOCK], b[BLOCK], d[BLOCK], c[BLOCK];
    for (i64 at = 0; at < F; at += BLOCK) {
      i64 n = F - at < BLOCK ? F - at : BLOCK;
      load(a, shift(g, half, t * g_stride + at), half, n);
      load(b, shift(u, half, t * u_stride + at), half, n);
      load(d, shift(dh, half, t * F + at), half, n);
      if (gelu) {
        for (i64 j = 0; j < n; j++) {
          float x = a[j], s = sigmoid(2 * GELU_A * (x + GELU_B * x * x * x));
          float act = x * s, slope = s + x * s * (1 - s) * 2 * GELU_A * (1 + 3 * GELU_B * x * x);
          c[j] = act * b[j];
          a[j] = d[j] * b[j] * slope;
          b[j] = d[j] * act;
        }
      } else {
        for (i64 j = 0; j < n; j++) {
          float x = a[j], s = sigmoid(x), act = x * s, slope = s + act * (1 - s);
          c[j] = act * b[j];
          a[j] = d[j] * b[j] * slope;
          b[j] = d[j] * act;
        }
      }
      if (h) store(place(h, half, t * F + at), c, half, n);
      store(place(dg, half, t * d_stride + at), a, half, n);
      store(place(du, half, t * d_stride + at), b, half, n);
    }
  }
}

// losses[i] = logsumexp(s·z) - s·z[target]; with `weights` the logits become weights[i]·s·(softmax - one-hot).
// Returns 0, or 1 when there is no memory for a row.
int cross_entropy(void *logits, int half, i64 n, i64 V, const i64 *targets, const float *weights, float *losses,
                  float s, int threads) {
  int failed = 0;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    float *row = malloc(V * sizeof(float));
    if (!row) {
#pragma omp atomic write
      failed = 1;
    }
#pragma omp for schedule(static)
    for (i64 i = 0; i < n; i++) {
      if (!row) continue;
      void *z = place(logits, half, i * V);
      load(row, z, half, V);
      float most = -INFINITY, sum = 0;
#pragma omp simd reduction(max : most)
      for (i64 j = 0; j < V; j++) most = row[j] > most ? row[j] : most;
      float told = row[targets[i]] - most;
#pragma omp simd reduction(+ : sum)
      for (i64 j = 0; j < V; j++) {
        row[j] = exponential((row[j] - most) * s);
        sum += row[j];
      }
      losses[i] = logf(sum) - told * s;
      if (weights) {
        float w = weights[i] * s, share = w / sum;
        for (i64 j = 0; j < V; j++) row[j] *= share;
        row[targets[i]] -= w;
        store(z, row, half, V);
      }
    }
    free(row);
  }
  return failed;
}

// Rows of scores become shares, in place. Row i of a block belongs to query i % queries, which sees keys up to
// `first` + its own number: softmax(scale·score) over those, zero beyond.
void causal_softmax(void *scores, int half, i64 rows, i64 L, i64 queries, i64 first, float scale, int threads) {
  EACH_ROW
  for (i64 i = 0; i < rows; i++) {
    void *row = place(scores, half, i * L);
    i64 seen = first + i % queries + 1;
    float a[BLOCK], most = -INFINITY, sum = 0;
    for (i64 at = 0; at < seen; at += BLOCK) {
      i64 n = seen - at < BLOCK ? seen - at : BLOCK;
      load(a, shift(row, half, at), half, n);
#pragma omp simd reduction(max : most)
      for (i64 j = 0; j < n; j++) most = a[j] > most ? a[j] : most;
    }
    for (i64 at = 0; at < seen; at += BLOCK) {
      i64 n = seen - at < BLOCK ? seen - at : BLOCK;
      if (seen > BLOCK) load(a, shift(row, half, at), half, n);
#pragma omp simd reduction(+ : sum)
      for (i64 j = 0; j < n; j++) {
        a[j] = exponential((a[j] - most) * scale);
        sum += a[j];
      }
      if (seen > BLOCK) store(place(row, half, at), a, half, n);
    }
    float share = 1.0f / sum;
    for (i64 at = 0; at < seen; at += BLOCK) {
      i64 n = seen - at < BLOCK ? seen - at : BLOCK;
      if (seen > BLOCK) load(a, shift(row, half, at), half, n);
      for (i64 j = 0; j < n; j++) a[j] *= share;
      store(place(row, half, at), a, half, n);
    }
    memset(place(row, half, seen), 0, (L - seen) * (half ? 2 : 4));
  }
}

// Gradients of shares become gradients of scores, in place: P·(dP - Σ P·dP)·scale.
void causal_softmax_back(void *grads, const void *shares, int half, i64 rows, i64 L, i64 queries, i64 first,
                         float scale, int threads) {
  EACH_ROW
  for (i64 i = 0; i < rows; i++) {
    void *row = place(grads, half, i * L);
    const void *share = shift(shares, half, i * L);
    i64 seen = first + i % queries + 1;
    float a[BLOCK], p[BLOCK], sum = 0;
    for (i64 at = 0; at < seen; at += BLOCK) {
      i64 n = seen - at < BLOCK ? seen - at : BLOCK;
      load(a, shift(row, half, at), half, n);
      load(p, shift(share, half, at), half, n);
#pragma omp simd reduction(+ : sum)
      for (i64 j = 0; j < n; j++) sum += a[j] * p[j];
    }
    for (i64 at = 0; at < seen; at += BLOCK) {
      i64 n = seen - at < BLOCK ? seen - at : BLOCK;
      if (seen > BLOCK) {
        load(a, shift(row, half, at), half, n);
        load(p, shift(share, half, at), half, n);
      }
      for (i64 j = 0; j < n; j++) a[j] = p[j] * (a[j] - sum) * scale;
      store(place(row, half, at), a, half, n);
    }
    memset(place(row, half, seen), 0, (L - seen) * (half ? 2 : 4));
  }
}

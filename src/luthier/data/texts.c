/* Passes over the bytes of many texts: which kinds of them there are, how many characters of each kind, which texts need a closer look,
   and digests of folded texts. Whole numbers alone: the plain twins in Python and NumPy give the same bits (tests/data/test_texts.py).

   T texts stand one after the other in `told`, text t from edges[t] to edges[t + 1], valid UTF-8. `places` are n of them. Sizes are
   checked by who calls (compiled.py); nothing here keeps anything. Not here: words (words.c), and what a rule makes of it. */

#include <stdint.h>
#include <string.h>

typedef uint64_t u64;

/* As many bytes as most processors take at once; the compiler makes several of it where they take fewer. */
#define WIDE 32
typedef uint8_t v32 __attribute__((vector_size(WIDE)));
typedef int8_t s32 __attribute__((vector_size(WIDE)));

#define TAKE(v, from) memcpy(&(v), (from), WIDE)
#define ARE(one, bit) ((v32)(one) & (uint8_t)(bit))

static inline u64 any(const v32 *v) {
  u64 lanes[WIDE / 8];
  memcpy(lanes, v, WIDE);
  u64 out = 0;
  for (int k = 0; k < WIDE / 8; k++) out |= lanes[k];
  return out;
}

/* The sum of 32 bytes. */
static inline int64_t sum(const v32 *v) {
  u64 lanes[WIDE / 8], out = 0;
  memcpy(lanes, v, WIDE);
  for (int k = 0; k < WIDE / 8; k++) out += (lanes[k] & 0x00FF00FF00FF00FFULL) + (lanes[k] >> 8 & 0x00FF00FF00FF00FFULL);
  return (int64_t)(out * 0x0001000100010001ULL >> 48);
}

static inline u64 little(const uint8_t *told) {
  u64 out;
  memcpy(&out, told, 8);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  out = __builtin_bswap64(out);
#endif
  return out;
}

/* One character from `told[at]` on, whose bytes end before `last`; returns how many bytes it has. */
static inline int64_t character(const uint8_t *told, int64_t at, int64_t last, uint32_t *point) {
  const uint8_t lead = told[at];
  *point = lead;
  if (lead < 0xC0) return 1;
  const int64_t size = 2 + (lead >= 0xE0) + (lead >= 0xF0);
  if (at + size > last) return 1;
  uint32_t out = lead & (0x7F >> size);
  for (int64_t k = 1; k < size; k++) out = out << 6 | (told[at + k] & 0x3F);
  *point = out < 0x110000 ? out : 0xFFFD;
  return size;
}

/* opened.marks: which kinds of bytes each text has; `kinds` [256] are those of opened.KINDS, whose order this is. */
void luthier_marks(const uint8_t *told, const int64_t *edges, int64_t texts, const uint16_t *kinds, uint16_t *out) {
  for (int64_t t = 0; t < texts; t++) {
    const uint8_t *one = told + edges[t], *last = told + edges[t + 1];
    unsigned found = 0;
    if (last - one < WIDE) {
      for (; one < last; one++) found |= kinds[*one];
      out[t] = (uint16_t)found;
      continue;
    }
    v32 low = {0}, high = {0}, v;
    while (one < last) {
      if (last - one < WIDE) one = last - WIDE; /* some twice: it is all one */
      TAKE(v, one);
      one += WIDE;
      const v32 digit = (v32)(v >= '0') & (v32)(v <= '9');
      const v32 upper = (v32)(v >= 'A') & (v32)(v <= 'Z');
      const v32 lower = (v32)(v >= 'a') & (v32)(v <= 'z');
      const v32 tab = (v32)(v == '\t'), line = (v32)(v == '\n'), at = (v32)(v == '@');
      const v32 tag = (v32)(v == '<') | (v32)(v == '&'), bracket = (v32)(v == '[');
      const v32 fence = (v32)(v == '`') | (v32)(v == '~');
      const v32 control = ((v32)(v < 32) | (v32)(v == 127)) & ~(tab | line);
      const v32 sign = (v32)(v > 32) & (v32)(v < 127) & ~(digit | upper | lower | at | tag | bracket | fence);
      low |= ARE(v == ' ', 1) | ARE(tab, 2) | ARE(line, 4) | ARE(control, 8) | ARE(digit, 16) | ARE(upper, 32) | ARE(lower, 64) |
             ARE(at, 128);
      high |= ARE(tag, 1) | ARE(v >= 0xCC, 2) | ARE(v >= 0x80, 4) | ARE(bracket, 8) | ARE(fence, 16) | ARE(sign, 32);
    }
    u64 a = any(&low), b = any(&high);
    for (int k = 32; k >= 8; k /= 2) {
      a |= a >> k;
      b |= b >> k;
    }
    out[t] = (uint16_t)((a & 0xFF) | (b & 0xFF) << 8);
  }
}

/* points.Points.of: which bits of `table` [0x110000] the characters of each text have; with `skip` those beyond ASCII alone. */
void luthier_points(const uint8_t *told, const int64_t *edges, const int64_t *places, int64_t n, const uint8_t *table, int64_t skip,
                    uint8_t *out) {
  for (int64_t i = 0; i < n; i++) {
    const int64_t last = edges[places[i] + 1];
    uint8_t found = 0;
    uint32_t point;
    for (int64_t at = edges[places[i]]; at < last;) {
      if (skip && last - at >= 8 && !(little(told + at) & 0x8080808080808080ULL)) {
        at += 8;
        continue;
      }
      if (skip && told[at] < 0x80) {
        at++;
        continue;
      }
      at += character(told, at, last, &point);
      found |= table[point];
    }
    out[i] = found;
  }
}

/* points.Points.counts: of how many characters each text consists, then how many have each bit of `table`; `out` is [n, 9]. A text in
   which `wide` [T] finds no byte beyond ASCII is counted by what characters.KINDS says of ASCII. */
void luthier_counts(const uint8_t *told, const int64_t *edges, const int64_t *places, int64_t n, const uint8_t *table,
                    const uint8_t *wide, int64_t *out) {
  u64 spread[256];
  for (int k = 0; k < 256; k++) {
    spread[k] = 0;
    for (int bit = 0; bit < 8; bit++) spread[k] |= (u64)(k >> bit & 1) << 8 * bit;
  }
  for (int64_t i = 0; i < n; i++, out += 9) {
    int64_t at = edges[places[i]], characters = 0;
    const int64_t last = edges[places[i] + 1];
    memset(out, 0, sizeof(*out) * 9);
    if (!wide[places[i]]) {
      characters = last - at;
      int64_t upper_all = 0, letter_all = 0, digit_all = 0, blank_all = 0, broken_all = 0;
      while (last - at >= WIDE) {
        v32 uppers = {0}, letters = {0}, digits = {0}, blanks = {0}, brokens = {0}, v;
        for (int turn = 0; turn < 255 && last - at >= WIDE; turn++, at += WIDE) {
          TAKE(v, told + at);
          const v32 upper = (v32)(v >= 'A') & (v32)(v <= 'Z'), small = v | 32;
          const v32 line = (v32)(v == '\t') | (v32)(v == '\n') | (v32)(v == '\r');
          uppers -= upper; /* true is -1 */
          letters -= (v32)(small >= 'a') & (v32)(small <= 'z');
          digits -= (v32)(v >= '0') & (v32)(v <= '9');
          blanks -= (v32)(v == ' ') | ((v32)(v >= 9) & (v32)(v <= 13));
          brokens -= ((v32)(v < 32) | (v32)(v == 127)) & ~line;
        }
        upper_all += sum(&uppers);
        letter_all += sum(&letters);
        digit_all += sum(&digits);
        blank_all += sum(&blanks);
        broken_all += sum(&brokens);
      }
      out[1] = letter_all;
      out[2] = digit_all;
      out[3] = letter_all + digit_all;
      out[4] = upper_all;
      out[5] = broken_all;
      out[6] = blank_all;
    }
    while (at < last) {
      u64 lanes = 0;
      for (int turn = 0; turn < 255 && at < last; turn++) {
        uint32_t point;
        at += character(told, at, last, &point);
        lanes += spread[table[point]];
        characters += wide[places[i]];
      }
      for (int bit = 0; bit < 8; bit++) out[1 + bit] += (int64_t)(lanes >> 8 * bit & 0xFF);
    }
    out[0] = characters;
  }
}

/* characters: texts in which more than `longest` bytes stand side by side of which none is a blank of ASCII. */
void luthier_stretches(const uint8_t *told, const int64_t *edges, const int64_t *places, int64_t n, int64_t longest, uint8_t *out) {
  for (int64_t i = 0; i < n; i++) {
    int64_t begin = edges[places[i]];
    const int64_t last = edges[places[i] + 1];
    out[i] = 0;
    while (last - begin > longest) { /* a blank that is far on leaves nothing to look at before it */
      int64_t at = begin + longest;
      while (at >= begin && told[at] != ' ' && (told[at] < 9 || told[at] > 13)) at--;
      if (at < begin) {
        out[i] = 1;
        break;
      }
      begin = at + 1;
    }
  }
}

/* Whether a character at told[at], which is none of ASCII, is white space. */
static inline int is_wide_blank(const uint8_t *told, int64_t at, int64_t last) {
  const uint8_t lead = told[at];
  if (lead == 0xC2) return at + 1 < last && (told[at + 1] == 0x85 || told[at + 1] == 0xA0);
  if ((lead != 0xE1 && lead != 0xE2 && lead != 0xE3) || at + 2 >= last) return 0;
  const uint8_t one = told[at + 1], two = told[at + 2];
  if (lead == 0xE1) return one == 0x9A && two == 0x80;
  if (lead == 0xE3) return one == 0x80 && two == 0x80;
  return (one == 0x80 && (two <= 0x8A || two == 0xA8 || two == 0xA9 || two == 0xAF)) || (one == 0x81 && two == 0x9F);
}

/* Whether 32 bytes are of ASCII, no control characters, and no two blanks side by side, nor one before the next byte's. */
static inline int is_plain(const uint8_t *told) {
  v32 v, next;
  TAKE(v, told);
  TAKE(next, told + 1);
  const v32 odd = (v32)((s32)v < 32) | ((v32)(v == ' ') & (v32)(next == ' '));
  return !any(&odd);
}

/* normalize: texts that are not words with single blanks or one or two line breaks between. `special` [T]: a text may have a blank
   that is no space. */
void luthier_untidy(const uint8_t *told, const int64_t *edges, int64_t texts, const uint8_t *special, uint8_t *out) {
  for (int64_t t = 0; t < texts; t++) {
    const int64_t first = edges[t], last = edges[t + 1];
    int found = 0;
    if (first == last) {
      out[t] = 0;
      continue;
    }
    if (!special[t]) {
      int64_t at = first;
      v32 one, next;
      found = told[first] == ' ' || told[last - 1] == ' ';
      for (; !found && last - at > WIDE; at += WIDE) {
        TAKE(one, told + at);
        TAKE(next, told + at + 1);
        one = (v32)(one == ' ') & (v32)(next == ' ');
        found = any(&one) != 0;
      }
      for (; !found && at + 1 < last; at++) found = told[at] == ' ' && told[at + 1] == ' ';
      out[t] = (uint8_t)found;
      continue;
    }
    int blanks = 0, breaks = 2; /* that stand right before */
    int64_t until = first;      /* where to try 32 bytes at once again */
    for (int64_t at = first; at < last && !found; at++) {
      while (at >= until && last - at > WIDE + 1) {
        if (is_plain(told + at) && !((blanks || breaks) && told[at] == ' ')) {
          at += WIDE;
          blanks = told[at - 1] == ' ';
          breaks = 0;
        } else {
          until = at + WIDE;
        }
      }
      const uint8_t c = told[at];
      if (c == ' ') {
        found = blanks || breaks;
        blanks = 1;
      } else if (c == '\n') {
        found = blanks || breaks >= 2;
        breaks++;
      } else {
        found = (c >= 9 && c <= 13) || (c >= 0x80 && is_wide_blank(told, at, last));
        blanks = breaks = 0;
      }
    }
    out[t] = (uint8_t)(found || blanks || breaks);
  }
}

/* mojibake: texts with one of the letters U+00C2 to U+00F4 and behind it a character of `second` [0x10000], or U+00C3 and a blank. */
void luthier_trace(const uint8_t *told, const int64_t *edges, const int64_t *places, int64_t n, const uint8_t *second, uint8_t *out) {
  for (int64_t i = 0; i < n; i++) {
    const uint8_t *at = told + edges[places[i]], *last = told + edges[places[i] + 1];
    out[i] = 0;
    while (last - at > 2 && (at = memchr(at, 0xC3, (size_t)(last - at - 2)))) {
      const uint8_t letter = at[1];
      at += 2;
      if (letter < 0x82 || letter > 0xB4) continue;
      uint32_t point;
      character(at, 0, last - at, &point);
      if ((point < 0x10000 && second[point]) || (letter == 0x83 && point == ' ')) {
        out[i] = 1;
        break;
      }
    }
  }
}

enum { LATIN = 0x180 }; /* phrases.LATIN_ENDS */

/* phrases.Phrases.within: whether a phrase stands in the first `most` characters of each text, in any case: 1. 2: none is found, but one of
   the `also_n` characters `also` stands there, which may be a part of one. `steps` [states, width] leads from a state by a letter's number
   to the next one, 0 being the first state; `letters` [LATIN] are the numbers of letters; a state of `ends` [states] is the end of a phrase.
   The character `from` counts as `as` of ASCII. */
void luthier_phrases(const uint8_t *told, const int64_t *edges, const int64_t *places, int64_t n, int64_t most, int64_t width,
                     const uint8_t *letters, const uint16_t *steps, const uint8_t *ends, int64_t from, int64_t as,
                     const uint32_t *also, int64_t also_n, uint8_t *out) {
  for (int64_t i = 0; i < n; i++) {
    int64_t at = edges[places[i]], state = 0;
    const int64_t last = edges[places[i] + 1];
    unsigned found = 0;
    for (int64_t count = 0; count < most && at < last && found != 1; count++) {
      uint32_t point = told[at];
      at += point < 0x80 ? 1 : character(told, at, last, &point);
      if (point == (uint32_t)from) point = (uint32_t)as;
      const unsigned letter = point < LATIN ? letters[point] : 0;
      state = steps[state * width + letter];
      if (ends[state]) found = 1;
      if (point >= 0x80 && !letter)
        for (int64_t k = 0; k < also_n; k++)
          if (also[k] == point && !found) found = 2;
    }
    out[i] = (uint8_t)found;
  }
}

/* BLAKE2b (RFC 7693) of 16 bytes, without a key, as hexadecimal digits. */

static const u64 START[8] = {0x6A09E667F3BCC908ULL, 0xBB67AE8584CAA73BULL, 0x3C6EF372FE94F82BULL, 0xA54FF53A5F1D36F1ULL,
                             0x510E527FADE682D1ULL, 0x9B05688C2B3E6C1FULL, 0x1F83D9ABFB41BD6BULL, 0x5BE0CD19137E2179ULL};
static const uint8_t ORDER[12][16] = {{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
                                      {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4}, {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
                                      {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13}, {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
                                      {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11}, {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
                                      {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5}, {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
                                      {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3}};

#define TURN(x, n) ((x) >> (n) | (x) << (64 - (n)))
#define STIR(a, b, c, d, x, y)        \
  do {                                \
    v[a] += v[b] + (x);               \
    v[d] = TURN(v[d] ^ v[a], 32);     \
    v[c] += v[d];                     \
    v[b] = TURN(v[b] ^ v[c], 24);     \
    v[a] += v[b] + (y);               \
    v[d] = TURN(v[d] ^ v[a], 16);     \
    v[c] += v[d];                     \
    v[b] = TURN(v[b] ^ v[c], 63);     \
  } while (0)
#define ROUND(r)                                         \
  do {                                                   \
    STIR(0, 4, 8, 12, m[ORDER[r][0]], m[ORDER[r][1]]);   \
    STIR(1, 5, 9, 13, m[ORDER[r][2]], m[ORDER[r][3]]);   \
    STIR(2, 6, 10, 14, m[ORDER[r][4]], m[ORDER[r][5]]);  \
    STIR(3, 7, 11, 15, m[ORDER[r][6]], m[ORDER[r][7]]);  \
    STIR(0, 5, 10, 15, m[ORDER[r][8]], m[ORDER[r][9]]);  \
    STIR(1, 6, 11, 12, m[ORDER[r][10]], m[ORDER[r][11]]); \
    STIR(2, 7, 8, 13, m[ORDER[r][12]], m[ORDER[r][13]]); \
    STIR(3, 4, 9, 14, m[ORDER[r][14]], m[ORDER[r][15]]); \
  } while (0)

static void press(u64 *h, const uint8_t *block, u64 count, int last) {
  u64 v[16], m[16];
  for (int k = 0; k < 8; k++) {
    v[k] = h[k];
    v[k + 8] = START[k];
  }
  v[12] ^= count;
  if (last) v[14] = ~v[14];
  for (int k = 0; k < 16; k++) m[k] = little(block + 8 * k);
  ROUND(0);
  ROUND(1);
  ROUND(2);
  ROUND(3);
  ROUND(4);
  ROUND(5);
  ROUND(6);
  ROUND(7);
  ROUND(8);
  ROUND(9);
  ROUND(10);
  ROUND(11);
  for (int k = 0; k < 8; k++) h[k] ^= v[k] ^ v[k + 8];
}

static void digest(const uint8_t *told, int64_t n, uint8_t *out) {
  u64 h[8], count = 0;
  uint8_t block[128];
  memcpy(h, START, sizeof h);
  h[0] ^= 0x01010000 ^ 16;
  for (; n > 128; told += 128, n -= 128) press(h, told, count += 128, 0);
  memset(block, 0, sizeof block);
  if (n) memcpy(block, told, (size_t)n);
  press(h, block, count + (u64)n, 1);
  for (int k = 0; k < 16; k++) {
    const unsigned byte = h[k / 8] >> 8 * (k % 8) & 0xFF;
    out[2 * k] = (uint8_t)"0123456789abcdef"[byte >> 4];
    out[2 * k + 1] = (uint8_t)"0123456789abcdef"[byte & 15];
  }
}

/* digests.of: each text's, `out` is [texts, 32]. */
void luthier_digests(const uint8_t *told, const int64_t *edges, int64_t texts, uint8_t *out) {
  for (int64_t t = 0; t < texts; t++) digest(told + edges[t], edges[t + 1] - edges[t], out + 32 * t);
}

/* What folding has written so far; `blank`: the last is one, or nothing is there yet. */
typedef struct {
  uint8_t *out;
  int64_t n;
  int blank;
} Folded;

/* records.fold of some bytes behind what is there. `forms` [0x110000] says of a character where its form stands in `pool`, and in the
   lowest four bits how many bytes it has; 1 is a blank, 0 what may not be folded by itself. Returns whether all could be. */
static int fold(Folded *into, const uint8_t *told, int64_t at, int64_t last, const uint32_t *forms, const uint8_t *pool) {
  uint8_t *out = into->out;
  int64_t n = into->n;
  int blank = into->blank;
  while (at < last) {
    int64_t until = last;
    if (last - at > WIDE) {
      v32 v, next;
      TAKE(v, told + at);
      TAKE(next, told + at + 1);
      const v32 space = (v32)(v == ' ');
      const v32 odd = (v32)((s32)v < 32) | (space & (v32)(next == ' '));
      if (!any(&odd) && !(blank && told[at] == ' ')) {
        v += (v32)(v >= 'A') & (v32)(v <= 'Z') & 32;
        memcpy(out + n, &v, WIDE);
        n += WIDE;
        at += WIDE;
        blank = told[at - 1] == ' ';
        continue;
      }
      until = at + WIDE;
    }
    while (at < until) {
      const uint8_t c = told[at];
      if (c == ' ' || (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x1F)) {
        if (!blank) out[n++] = ' ';
        blank = 1;
        at++;
      } else if (c < 0x80) {
        out[n++] = (uint8_t)(c + (c >= 'A' && c <= 'Z' ? 32 : 0));
        blank = 0;
        at++;
      } else {
        uint32_t point;
        at += character(told, at, last, &point);
        const uint32_t form = forms[point];
        if (!form) return 0;
        if (form == 1) {
          if (!blank) out[n++] = ' ';
          blank = 1;
        } else {
          memcpy(out + n, pool + (form >> 4), form & 15);
          n += form & 15;
          blank = 0;
        }
      }
    }
  }
  into->n = n;
  into->blank = blank;
  return 1;
}

/* digests.of_rows: of each row's texts one digest, `texts` from begins[b] on, each behind head `before` of it and before `after_bytes` of
   `after`. Head k stands in `heads` from head_edges[k] on. With `folds` all of it is folded, and a row that may not be is marked in
   `left`. `scratch` has room for three times the longest row. `out` is [rows, 32]. */
void luthier_row_digests(const uint8_t *told, const int64_t *edges, const int64_t *texts, const int64_t *begins, int64_t rows,
                         const uint8_t *heads, const int64_t *head_edges, const int64_t *before, const uint8_t *after, int64_t after_bytes,
                         int64_t folds, const uint32_t *forms, const uint8_t *pool, uint8_t *scratch, uint8_t *out, uint8_t *left) {
  for (int64_t b = 0; b < rows; b++, out += 32) {
    Folded row = {scratch, 0, 1};
    int whole = 1;
    for (int64_t i = begins[b]; i < begins[b + 1] && whole; i++) {
      const int64_t t = texts[i], head = before[i];
      if (folds) {
        whole = fold(&row, heads, head_edges[head], head_edges[head + 1], forms, pool) &&
                fold(&row, told, edges[t], edges[t + 1], forms, pool) && fold(&row, after, 0, after_bytes, forms, pool);
        continue;
      }
      const uint8_t *from[3] = {heads + head_edges[head], told + edges[t], after};
      const int64_t sizes[3] = {head_edges[head + 1] - head_edges[head], edges[t + 1] - edges[t], after_bytes};
      for (int k = 0; k < 3; k++) {
        if (sizes[k]) memcpy(row.out + row.n, from[k], (size_t)sizes[k]);
        row.n += sizes[k];
      }
    }
    left[b] = !whole;
    if (folds && row.n && row.blank) row.n--;
    digest(row.out, row.n, out);
  }
}

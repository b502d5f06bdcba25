/* What words.py and sketch.py do, one text and one row after the other, so that nothing is written to memory and read again in
   between. Whole numbers alone: the plain twins in NumPy give the same bits (tests/data/test_compiled.py).

   T texts with W words, of B rows. Sizes are checked by who calls (compiled.py); nothing here keeps anything.
   Not here: characters that fold into more or fewer bytes, and words of more than 64 bytes: they are marked and left to Python. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t u64;

#define STEP 0x9E3779B97F4A7C15ULL
#define LONGEST 64
#define CROWDED 48 /* more than so many hashes that begin alike were made to: they are not sorted one by one */

enum { APART = 0, LETTER = 1, ALONE = 2 };

static inline u64 mix(u64 h) {
  h ^= h >> 30;
  h *= 0xBF58476D1CE4E5B9ULL;
  h ^= h >> 27;
  h *= 0x94D049BB133111EBULL;
  return h ^ h >> 31;
}

/* Up to eight bytes as one number, the first the lowest; eight are read whatever `n` is. */
static inline u64 eight(const uint8_t *told, int64_t n) {
  u64 out;
  memcpy(&out, told, 8);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  out = __builtin_bswap64(out);
#endif
  return n >= 8 ? out : out & (((u64)1 << 8 * n) - 1);
}

static inline u64 hash_word(const uint8_t *told, int64_t n) {
  u64 h = mix((u64)n * STEP + eight(told, n));
  for (int64_t done = 8; done < n; done += 8) h = mix(h + eight(told + done, n - done));
  return h;
}

#define WIDE 32
typedef uint8_t v32 __attribute__((vector_size(WIDE)));

/* A text of n bytes of ASCII: its letters in small and 0 for all else into `folded`. */
static void fold_ascii(const uint8_t *told, uint8_t *folded, int64_t n, const uint8_t *ascii) {
  int64_t at = 0;
  for (; n - at >= WIDE; at += WIDE) {
    v32 v;
    memcpy(&v, told + at, WIDE);
    const v32 upper = (v32)(v >= 'A') & (v32)(v <= 'Z');
    const v32 other = ((v32)(v >= 'a') & (v32)(v <= 'z')) | ((v32)(v >= '0') & (v32)(v <= '9'));
    v = (v + (upper & 32)) & (upper | other);
    memcpy(folded + at, &v, WIDE);
  }
  for (; at < n; at++) folded[at] = ascii[told[at]];
}

static int is_ascii(const uint8_t *told, int64_t n) {
  u64 seen = 0, some;
  for (; n >= 8; told += 8, n -= 8) {
    memcpy(&some, told, 8);
    seen |= some;
  }
  for (; n > 0; told++, n--) seen |= *told;
  return !(seen & 0x8080808080808080ULL);
}

/* The words of such a text, which stands at folded[at .. last]. Returns how many there are with the n before. -1: one is too long. */
static int64_t cut_ascii(const uint8_t *folded, int64_t at, int64_t last, u64 *hashes, int64_t *start, int64_t *end, int64_t n) {
  const int64_t mine = n;
  int64_t ended = n;
  u64 before = 0; /* whether the byte before is a letter */
  for (; at < last; at += 64) {
    u64 letters = 0;
    const int64_t here = last - at < 64 ? last - at : 64;
    for (int64_t k = 0; k < here; k += 8) { /* up to seven bytes behind the text are read, and not looked at */
      const u64 some = eight(folded + at + k, 8) + 0x7F7F7F7F7F7F7F7FULL;
      letters |= ((some & 0x8080808080808080ULL) >> 7) * 0x0102040810204080ULL >> 56 << k;
    }
    if (here < 64) letters &= ((u64)1 << here) - 1;
    const u64 shifted = letters << 1 | before;
    for (u64 begins = letters & ~shifted; begins; begins &= begins - 1) start[n++] = at + __builtin_ctzll(begins);
    for (u64 ends = ~letters & shifted; ends; ends &= ends - 1) {
      const int64_t place = at + __builtin_ctzll(ends);
      if (place < last) end[ended++] = place;
    }
    before = letters >> 63;
  }
  if (ended < n) end[ended] = last;
  for (int64_t w = mine; w < n; w++) {
    if (end[w] - start[w] > LONGEST) return -1;
    hashes[w] = hash_word(folded + start[w], end[w] - start[w]);
  }
  return n;
}

/* What is known of characters: ASCII's letters in small, and of each code point what it is, folds to and whether it folds by itself. */
typedef struct {
  const uint8_t *ascii, *kinds;
  const uint32_t *lowers;
  const uint8_t *simple;
} Known;

/* The words of a text at told[at .. last], folded into folded[at .. last]. Returns as cut_ascii does; -1 also where a character does not
   fold by itself. `ready`: the text has been folded. */
static int64_t cut_text(const uint8_t *told, int64_t at, int64_t last, const Known *known, int ready, uint8_t *folded, u64 *hashes,
                        int64_t *start, int64_t *end, int64_t n) {
  if (is_ascii(told + at, last - at)) {
    fold_ascii(told + at, folded + at, last - at, known->ascii);
    return cut_ascii(folded, at, last, hashes, start, end, n);
  }
  int64_t begun = -1;
  while (at < last) {
    const uint8_t lead = told[at];
    int64_t size = 1;
    int kind;
    if (lead < 0x80) {
      kind = (folded[at] = known->ascii[lead]) != 0;
    } else {
      size = 2 + (lead >= 0xE0) + (lead >= 0xF0);
      if (lead < 0xC0 || at + size > last) return -1;
      uint32_t point = lead & (0x7F >> size);
      for (int64_t k = 1; k < size; k++) point = point << 6 | (told[at + k] & 0x3F);
      if (point >= 0x110000 || !(ready || known->simple[point])) return -1;
      kind = known->kinds[point];
      const uint32_t lower = ready ? point : known->lowers[point];
      if (lower == point) {
        memcpy(folded + at, told + at, (size_t)size);
      } else {
        folded[at] = (uint8_t)((size == 2 ? 0xC0 : 0xE0) | lower >> 6 * (size - 1));
        for (int64_t k = 1; k < size; k++) folded[at + k] = (uint8_t)(0x80 | (lower >> 6 * (size - 1 - k) & 0x3F));
      }
    }
    if (kind != LETTER && begun >= 0) {
      if (at - begun > LONGEST) return -1;
      start[n] = begun;
      end[n] = at;
      hashes[n++] = hash_word(folded + begun, at - begun);
      begun = -1;
    }
    if (kind == LETTER && begun < 0) begun = at;
    if (kind == ALONE) {
      start[n] = at;
      end[n] = at + size;
      hashes[n++] = hash_word(folded + at, size);
    }
    at += size;
  }
  if (begun >= 0) {
    if (last - begun > LONGEST) return -1;
    start[n] = begun;
    end[n] = last;
    hashes[n++] = hash_word(folded + begun, last - begun);
  }
  return n;
}

/* words.cut. `folded` has eight bytes more than `told`, the others room for W. A text that is left to Python is marked in `left`, and has no
   words. `ready` [texts]: a text has been folded. Returns W. */
int64_t luthier_cut(const uint8_t *told, const int64_t *edges, int64_t texts, const uint8_t *ascii, const uint8_t *kinds,
                    const uint32_t *lowers, const uint8_t *simple, const uint8_t *ready, uint8_t *folded, u64 *hashes, int64_t *start,
                    int64_t *end, int64_t *first, uint8_t *left) {
  const Known known = {ascii, kinds, lowers, simple};
  int64_t n = 0;
  first[0] = 0;
  for (int64_t t = 0; t < texts; t++) {
    const int64_t more = cut_text(told, edges[t], edges[t + 1], &known, ready[t], folded, hashes, start, end, n);
    left[t] = more < 0;
    first[t + 1] = n = more < 0 ? n : more;
  }
  return n;
}

/* The words of each row's texts, `texts` from begins[b] on, blanks between and a line for each text. Returns how many bytes; `ends`
   says where each row's end. */
int64_t luthier_lines(const uint8_t *told, const int64_t *start, const int64_t *end, const int64_t *first,
                      const int64_t *texts, const int64_t *begins, int64_t rows, uint8_t *out, int64_t *ends) {
  int64_t n = 0;
  for (int64_t b = 0; b < rows; b++) {
    for (int64_t i = begins[b]; i < begins[b + 1]; i++) {
      const int64_t t = texts[i];
      for (int64_t w = first[t]; w < first[t + 1]; w++) {
        memcpy(out + n, told + start[w], (size_t)(end[w] - start[w]));
        n += end[w] - start[w];
        out[n++] = w + 1 < first[t + 1] ? ' ' : '\n';
      }
    }
    ends[b] = n;
  }
  return n;
}

enum { AGAIN = 1, WORD_RUN = 2, LONG_WORD = 4, LEFT = 8 };

/* Whether two, three or four words in a row may stand there `often`, and make up more than `share` [3] of n words. `counted` has `room`
   places, a power of two: hashes that meet there only make a text look worse. */
static unsigned is_again(const u64 *hashes, int64_t n, int64_t often, int64_t longest, int64_t bytes, const double *share,
                         uint32_t *counted, int64_t room) {
  for (int64_t wide = 2; wide <= 4; wide++) {
    int64_t places = 64;
    int64_t most = 0;
    while (places < 4 * n && places < room) places *= 2;
    memset(counted, 0, sizeof(*counted) * (size_t)places);
    for (int64_t w = 0; w + wide <= n; w++) {
      u64 h = hashes[w];
      for (int64_t k = 1; k < wide; k++) h = h * STEP + hashes[w + k];
      const int64_t times = ++counted[(h ^ h >> 32) & (u64)(places - 1)];
      most = times > most ? times : most;
    }
    if (most < often) return 0; /* more words in a row are no more frequent */
    if (1.000001 * (double)most * (double)wide * (double)longest >= share[wide - 2] * (double)bytes) return AGAIN;
  }
  return 0;
}

/* repetition: which texts need a closer look. AGAIN: see above, for texts of `shortest` words. WORD_RUN: one word stands there more than
   `word_run` times in a row. LONG_WORD: one has more than `letter_run` bytes. LEFT: Python must cut the text; into `counts` goes how
   many words a text has. `folded`, `hashes`, `start` and `end` have room for the longest text, `counted` for `room`. */
void luthier_repeats(const uint8_t *told, const int64_t *edges, int64_t texts, const uint8_t *ascii, const uint8_t *kinds,
                     const uint32_t *lowers, const uint8_t *simple, int64_t shortest, int64_t often, int64_t word_run, int64_t letter_run,
                     const double *share, uint8_t *folded, u64 *hashes, int64_t *start, int64_t *end, uint32_t *counted, int64_t room,
                     int64_t *counts, uint8_t *out) {
  const Known known = {ascii, kinds, lowers, simple};
  for (int64_t t = 0; t < texts; t++) {
    const int64_t n = cut_text(told + edges[t], 0, edges[t + 1] - edges[t], &known, 0, folded, hashes, start, end, 0);
    counts[t] = n < 0 ? 0 : n;
    out[t] = n < 0 ? LEFT : 0;
    int64_t run = 0, longest = 0, bytes = 0;
    unsigned found = 0;
    for (int64_t w = 0; w < n; w++) {
      const int64_t size = end[w] - start[w];
      bytes += size;
      longest = size > longest ? size : longest;
      run = w && hashes[w] == hashes[w - 1] ? run + 1 : 1;
      if (run > word_run) found |= WORD_RUN;
    }
    if (longest > letter_run) found |= LONG_WORD;
    if (n >= shortest && n >= often) found |= is_again(hashes, n, often, longest, bytes, share, counted, room);
    out[t] |= (uint8_t)found;
  }
}

static int compare(const void *a, const void *b) {
  const u64 one = *(const u64 *)a, other = *(const u64 *)b;
  return (one > other) - (one < other);
}

/* Hashes of 48 bits are spread evenly, so each is put near where it belongs first. `given` is sorted into `out`. */
static void sort(const u64 *given, u64 *out, uint32_t *past, int64_t n) {
  memset(past, 0, sizeof(*past) * (size_t)(n + 1));
  for (int64_t k = 0; k < n; k++) past[((given[k] >> 16) * (u64)n >> 32) + 1]++;
  int crowded = 0;
  for (int64_t k = 0; k < n; k++) {
    crowded |= past[k + 1] > CROWDED;
    past[k + 1] += past[k];
  }
  for (int64_t k = 0; k < n; k++) out[past[(given[k] >> 16) * (u64)n >> 32]++] = given[k];
  if (crowded) {
    qsort(out, (size_t)n, sizeof(u64), compare);
    return;
  }
  for (int64_t k = 1; k < n; k++) {
    const u64 one = out[k];
    int64_t at = k;
    for (; at > 0 && out[at - 1] > one; at--) out[at] = out[at - 1];
    out[at] = one;
  }
}

/* sketch.shingles, of `k` words. `values` has room for W, and so have `scratch` and `past`, which for one more. */
void luthier_shingles(const u64 *hashes, const int64_t *first, const int64_t *texts, const int64_t *begins, int64_t rows,
                      int64_t k, int64_t bits, u64 *scratch, uint32_t *past, u64 *values, int64_t *sets) {
  int64_t n = 0;
  sets[0] = 0;
  for (int64_t b = 0; b < rows; b++) {
    int64_t m = 0;
    for (int64_t i = begins[b]; i < begins[b + 1]; i++) {
      const u64 *word = hashes + first[texts[i]];
      const int64_t words = first[texts[i] + 1] - first[texts[i]];
      const int64_t wide = words < k ? words : k;
      for (int64_t w = 0; w + wide <= words && wide; w++) {
        u64 h = word[w];
        for (int64_t j = 1; j < wide; j++) h = h * STEP + word[w + j];
        scratch[m++] = mix(h) >> (64 - bits);
      }
    }
    u64 *mine = values + n;
    sort(scratch, mine, past, m);
    int64_t kept = 0;
    for (int64_t j = 0; j < m; j++)
      if (!j || mine[j] != mine[kept - 1]) mine[kept++] = mine[j];
    n += kept;
    sets[b + 1] = n;
  }
}

/* sketch.banded. `out` and `taken` are zeros [B, bands]; `lowest` has room for [bands, wide] and `found` for [bands]. */
void luthier_banded(const u64 *values, const int64_t *sets, int64_t rows, int64_t bands, int64_t wide, int64_t drawings,
                    int64_t bits, u64 *lowest, int64_t *found, u64 *out, uint8_t *taken) {
  for (int64_t b = 0; b < rows; b++, out += bands, taken += bands) {
    int lacking = sets[b + 1] > sets[b];
    for (int64_t d = 0; d < drawings && lacking; d++) {
      memset(found, 0, sizeof(*found) * (size_t)bands);
      for (int64_t i = sets[b]; i < sets[b + 1]; i++) {
        const u64 drawn = mix(values[i] + (u64)(d + 1) * STEP);
        const int64_t band = (int64_t)((drawn >> 32) * (u64)bands >> 32), room = wide - taken[band];
        if (room <= 0) continue;
        const u64 low = drawn >> (64 - bits);
        u64 *mine = lowest + band * wide;
        int64_t at = found[band];
        if (at == room) {
          if (low >= mine[room - 1]) continue;
          at--;
        } else {
          found[band]++;
        }
        for (; at > 0 && mine[at - 1] > low; at--) mine[at] = mine[at - 1];
        mine[at] = low;
      }
      lacking = 0;
      for (int64_t band = 0; band < bands; band++) {
        for (int64_t i = 0; i < found[band]; i++) out[band] += mix(lowest[band * wide + i] + (u64)d * STEP);
        taken[band] = (uint8_t)(taken[band] + found[band]);
        lacking |= taken[band] < wide;
      }
    }
    for (int64_t band = 0; band < bands; band++) out[band] = mix(out[band]);
  }
}

/* sketch.whole */
void luthier_whole(const u64 *values, const int64_t *sets, int64_t rows, u64 *out) {
  for (int64_t b = 0; b < rows; b++) {
    u64 h = (u64)(sets[b + 1] - sets[b]) * STEP;
    for (int64_t i = sets[b]; i < sets[b + 1]; i++) h += mix(values[i]);
    out[b] = mix(h);
  }
}

/* sketch.shared */
void luthier_shared(const u64 *a, const int64_t *a_sets, const u64 *b, const int64_t *b_sets, int64_t pairs, int64_t *out) {
  for (int64_t p = 0; p < pairs; p++) {
    int64_t i = a_sets[p], j = b_sets[p], both = 0;
    while (i < a_sets[p + 1] && j < b_sets[p + 1]) {
      const u64 one = a[i], other = b[j];
      both += one == other;
      i += one <= other;
      j += other <= one;
    }
    out[p] = both;
  }
}

/* A set of stretches of bytes: open addressing, in a table of a power of two. */
typedef struct {
  const uint8_t *told;
  int64_t n;
  u64 hash;
} Slot;

typedef struct {
  Slot *slots;
  u64 mask;
  int64_t size;
} Set;

static Slot *slot_of(const Set *set, const uint8_t *told, int64_t n, u64 hash) {
  u64 at = hash & set->mask;
  for (; set->slots[at].told; at = (at + 1) & set->mask) {
    const Slot *one = set->slots + at;
    if (one->hash == hash && one->n == n && !memcmp(one->told, told, (size_t)n)) break;
  }
  return set->slots + at;
}

/* Adds a shingle; returns 1 if it is new, and `other` has it. */
static int64_t add(Set *set, const Set *other, const uint8_t *told, int64_t n, u64 seed) {
  u64 hash = mix(seed + (u64)n);
  for (int64_t k = 0; k < n; k += 8) {
    u64 some = 0;
    memcpy(&some, told + k, (size_t)(n - k < 8 ? n - k : 8));
    hash = mix(hash + some);
  }
  Slot *mine = slot_of(set, told, n, hash);
  if (mine->told) return 0;
  *mine = (Slot){told, n, hash};
  set->size++;
  return other && slot_of(other, told, n, hash)->told;
}

/* The shingles of `k` words of lines as luthier_lines writes them. Returns how many `other` has, -1 where memory is short. */
static int64_t fill(Set *set, const Set *other, const uint8_t *told, int64_t n, int64_t k, u64 seed) {
  u64 words = 1, room = 2;
  for (int64_t i = 0; i < n; i++) words += told[i] <= ' ';
  while (room < 2 * words) room *= 2;
  *set = (Set){calloc(room, sizeof(Slot)), room - 1, 0};
  if (!set->slots) return -1;
  int64_t both = 0;
  for (int64_t begin = 0, last; begin < n; begin = last + 1) {
    for (last = begin; last < n && told[last] != '\n'; last++) {
    }
    int64_t end = begin;
    for (int64_t count = 0; count < k && end < last; count++)
      for (end += count > 0; end < last && told[end] != ' '; end++) {
      }
    both += add(set, other, told + begin, end - begin, seed);
    while (end < last) {
      for (end++; end < last && told[end] != ' '; end++) {
      }
      while (told[begin++] != ' ') {
      }
      both += add(set, other, told + begin, end - begin, seed);
    }
  }
  return both;
}

/* near_duplicates.compare: how many shingles both have, into `sizes` how many each has. -1 where memory is short. `seed` is for
   nobody to know who writes words that collide; it changes nothing but the time. */
int64_t luthier_compare(const uint8_t *a, int64_t a_bytes, const uint8_t *b, int64_t b_bytes, int64_t k, int64_t seed,
                        int64_t *sizes) {
  Set one = {0}, other = {0};
  int64_t both = fill(&one, NULL, a, a_bytes, k, (u64)seed);
  if (both >= 0) both = fill(&other, &one, b, b_bytes, k, (u64)seed);
  sizes[0] = one.size;
  sizes[1] = other.size;
  free(one.slots);
  free(other.slots);
  return both;
}

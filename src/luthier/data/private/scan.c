/* In which ways each of many texts may hold something private: one look at the bytes for all ways, before any string is made. What is told
   is a superset of what find.py finds in the text: where the bytes do not decide, the answer is yes, and Python decides
   (tests/data/private/test_scan.py). Tables come from scan.py, which makes them from find.py's own.

   T texts stand one after the other in `told`, text t from edges[t] to edges[t + 1], valid UTF-8. Nothing here keeps anything. */

#include <stdint.h>
#include <string.h>

/* The order of find.WAYS. SURE: a number that may count by itself. */
enum { EMAIL = 1, NUMBERS = 2, LETTERED = 4, IBAN = 8, IP = 16, KEY = 32, SURE = 64, ANY = 127 };
/* Of an open number: some row of its layout that needs no name counts if its check holds; its name may stand near in letters that are
   not looked at. */
enum { COUNTS = 1, NAMED = 2 };
/* What a layout of digits is of; a form of characters that stand for another one. */
enum { CARD = 1, PHONE = 2, FRENCH = 4, STRONG = 8, WEAK = 16 };
enum { ITSELF = 0, NOTHING = 1, STRANGE = 2 };
enum {
  LONGEST_GROUP = 19, /* digits of a card */
  SIGNS = 26,         /* of a layout: groups of 1 to 19 digits, then what may stand between */
  MOST_GROUPS = 64,
  MOST_DIGITS = 20,
  FEWEST = 7,         /* numbers.FEWEST */
  NEAR = 48,          /* numbers._NEAR, and what is_named reads behind */
  BEHIND = 16,
  CLOSE = 24,         /* phones._CLOSE */
};
static const char BETWEEN[] = " ().-/";

/* In lower case, word k from edges[k] on. */
typedef struct {
  const uint8_t *told;
  const int64_t *edges;
  int64_t n;
} Words;

typedef struct {
  const uint8_t *forms;   /* [0x110000] ITSELF, NOTHING, STRANGE or the plain character */
  const uint8_t *letters; /* of ASCII and more, and a machine of hints as phrases.py makes it */
  const uint16_t *steps;
  const uint8_t *ends;
  int64_t width;
  const uint8_t *threes; /* [1 << 15] by the first three letters of a hint */
  const uint16_t *trie; /* [nodes, SIGNS] of layouts, from node 0 */
  const uint8_t *fits;  /* [nodes] of what a layout that ends there is */
  const uint8_t *codes; /* [1000, 3] by the first three digits: how many are the country's, fewest and most digits behind */
  const uint8_t *ibans; /* [26 * 26] characters by country */
  Words said;           /* after which a number is one to call */
  Words versions;       /* after which four numbers are a version's */
} Known;

/* Numbers whose checks Python knows, at most `room`: each of text about[0], its layout's node about[1], about[2] of COUNTS and NAMED,
   about[3] digits in `digits` [room, MOST_DIGITS]. What stands around it is from edges[k] to edges[k + 1], also where COUNTS: one layout
   is of ids that count by themselves and of others that need their name. */
typedef struct {
  int64_t *about;
  uint8_t *digits, *told;
  int64_t *edges;
  int64_t n, room;
} Open;

typedef struct {
  int64_t at, size;
} Group;

static inline int is_digit(uint8_t c) { return (uint8_t)(c - '0') < 10; }
static inline int is_letter(uint8_t c) { return (uint8_t)((c | 32) - 'a') < 26; }
static inline int is_alnum(uint8_t c) { return is_digit(c) || is_letter(c); }
static inline int is_word(uint8_t c) { return is_alnum(c) || c == '_'; }
static inline int is_hex(uint8_t c) { return is_digit(c) || (uint8_t)((c | 32) - 'a') < 6; }
static inline int is_between(uint8_t c) { return c == ' ' || (c >= '(' && c <= ')') || (c >= '-' && c <= '/'); }

static int is_ascii(const uint8_t *s, int64_t n) {
  int64_t at = 0;
  for (; at + 8 <= n; at += 8) {
    uint64_t some;
    memcpy(&some, s + at, 8);
    if (some & 0x8080808080808080ULL) return 0;
  }
  for (; at < n; at++)
    if (s[at] >= 0x80) return 0;
  return 1;
}

/* readable.Readable.plain into `out`, which has room for the text. Returns its size, -1 where a character is one that Python folds to a
   letter of ASCII. */
static int64_t readable(const Known *known, const uint8_t *s, int64_t n, uint8_t *out) {
  int64_t kept = 0;
  for (int64_t at = 0; at < n;) {
    const uint8_t lead = s[at];
    int64_t size = lead < 0xC0 ? 1 : 2 + (lead >= 0xE0) + (lead >= 0xF0);
    if (size == 1 || at + size > n) {
      out[kept++] = s[at++];
      continue;
    }
    uint32_t point = lead & (0x7F >> size);
    for (int64_t k = 1; k < size; k++) point = point << 6 | (s[at + k] & 0x3F);
    const uint8_t form = point < 0x110000 ? known->forms[point] : ITSELF;
    if (form == STRANGE) return -1;
    if (form == ITSELF) {
      memcpy(out + kept, s + at, (size_t)size);
      kept += size;
    } else if (form != NOTHING) {
      out[kept++] = form;
    }
    at += size;
  }
  return kept;
}

/* A sign of an address with a letter or digit before and, behind, a name with a point that goes on. */
static int is_address_at(const uint8_t *s, int64_t n, int64_t sign, int64_t behind) {
  if (sign == 0 || behind >= n) return 0;
  const uint8_t before = s[sign - 1];
  if (!is_word(before) && before < 0x80 && !memchr(".%+'-", before, 5)) return 0;
  if (!is_alnum(s[behind]) && s[behind] < 0x80) return 0;
  while (behind < n && (is_alnum(s[behind]) || s[behind] >= 0x80 || s[behind] == '-')) behind++;
  return behind + 1 < n && s[behind] == '.' && (is_alnum(s[behind + 1]) || s[behind + 1] >= 0x80);
}

static int has_email(const uint8_t *s, int64_t n) {
  const uint8_t *at = s, *last = s + n;
  while (at < last && (at = memchr(at, '@', (size_t)(last - at)))) {
    if (is_address_at(s, n, at - s, at - s + 1)) return 1;
    at++;
  }
  for (at = s; last - at > 3 && (at = memchr(at, '%', (size_t)(last - at - 2))); at++)
    if (at[1] == '4' && at[2] == '0' && is_address_at(s, n, at - s, at - s + 3)) return 1;
  return 0;
}

/* An IPv6 address has two colons side by side, or six and more; a digit; and by find._is_telling three groups or one of four. */
static int has_colons(const uint8_t *s, int64_t n) {
  const uint8_t *at = s, *last = s + n;
  while (at < last && (at = memchr(at, ':', (size_t)(last - at)))) {
    while (at > s && (is_hex(at[-1]) || at[-1] == '.')) at--;
    int colons = 0, pair = 0, digit = 0, groups = 0, size = 0, longest = 0;
    for (; at < last && (is_hex(*at) || *at == '.' || *at == ':'); at++) {
      const int colon = *at == ':';
      digit |= is_digit(*at);
      colons += colon;
      pair |= colon && at + 1 < last && at[1] == ':';
      groups += !colon && !size;
      size = colon ? 0 : size + 1;
      longest = size > longest ? size : longest;
    }
    if (digit && (pair || colons >= 6) && (groups > 2 || longest >= 4)) return 1;
  }
  return 0;
}

/* Whether one of the words stands right before `end`, whatever stands before it. */
static int is_behind(const Words *words, const uint8_t *s, int64_t end) {
  for (int64_t w = 0; w < words->n; w++) {
    const uint8_t *word = words->told + words->edges[w];
    const int64_t size = words->edges[w + 1] - words->edges[w];
    int64_t k = size;
    if (size > end) continue;
    while (k > 0 && (s[end - size + k - 1] | 32) == word[k - 1]) k--;
    if (!k) return 1;
  }
  return 0;
}

/* find._is_version by the word before. */
static int is_version(const Known *known, const uint8_t *s, int64_t at) {
  int64_t end = at;
  while (end > 0 && at - end < 4 && s[end - 1] < 0x80 && !is_alnum(s[end - 1]) && s[end - 1] != '\n') end--;
  return is_behind(&known->versions, s, end);
}

/* Four numbers below 256 with points between, none of them before or behind; not of the networks that are no one's by their first. */
static int is_address(const Known *known, const uint8_t *s, int64_t n, int64_t at) {
  const int64_t start = at;
  if (at > 0 && (is_word(s[at - 1]) || s[at - 1] == '.')) return 0;
  for (int part = 0; part < 4; part++) {
    int value = 0;
    const int64_t from = at;
    for (; at < n && at - from < 3 && is_digit(s[at]); at++) value = 10 * value + s[at] - '0';
    if (at == from || value > 255) return 0;
    if (part == 0 && (value == 0 || value == 127 || value >= 224)) return 0;
    if (part < 3 && (at >= n || s[at++] != '.')) return 0;
  }
  if (at < n && (is_word(s[at]) || (s[at] == '.' && at + 1 < n && is_digit(s[at + 1])))) return 0;
  return !is_version(known, s, start);
}

/* checks.iban of what begins two letters before the digits at `at`. */
static int is_iban(const Known *known, const uint8_t *s, int64_t n, int64_t at) {
  if (at < 2 || at + 1 >= n || !is_letter(s[at - 2]) || !is_letter(s[at - 1]) || !is_digit(s[at + 1])) return 0;
  if (at > 2 && is_alnum(s[at - 3])) return 0;
  const int length = known->ibans[26 * ((s[at - 2] | 32) - 'a') + (s[at - 1] | 32) - 'a'];
  const int check = 10 * (s[at] - '0') + s[at + 1] - '0';
  if (!length || check < 2 || check > 98) return 0;
  unsigned rest = 0;
  int64_t next = at + 2;
  for (int k = 4; k < length; k++) {
    if (next < n && (s[next] == ' ' || s[next] == '.' || s[next] == '-')) next++;
    if (next >= n || !is_alnum(s[next])) return 0;
    rest = (is_digit(s[next]) ? 10 * rest + s[next] - '0' : 100 * rest + (s[next] | 32) - 'a' + 10) % 97;
    next++;
  }
  if (next < n && is_alnum(s[next])) return 0;
  for (int k = -2; k < 0; k++) rest = (100 * rest + (s[at + k] | 32) - 'a' + 10) % 97;
  return (100 * rest + (unsigned)check) % 97 == 1;
}

/* By the national id of Italy: letters, and digits that may be letters. */
static int is_italian(const uint8_t *s, int64_t begin, int64_t end) {
  static const char form[] = "aaaaaaddaddaddda";
  for (int k = 0; k < 16 && end - begin == 16; k++) {
    const uint8_t c = s[begin + k], capital = c & 0xDF;
    const int digit = is_digit(c) || (capital >= 'L' && capital <= 'V' && capital != 'O');
    if (form[k] == 'a' ? !is_letter(c) : !digit) return 0;
  }
  return end - begin == 16;
}

/* Two capitals and 32 digits of base 16, as keys of Twilio are. */
static int is_twilio(const uint8_t *s, int64_t begin, int64_t end) {
  return end - begin >= 32 && begin > 1 && (!memcmp(s + begin - 2, "SK", 2) || !memcmp(s + begin - 2, "AC", 2));
}

static int is_small_hex(uint8_t c) { return is_digit(c) || (uint8_t)(c - 'a') < 6; }

/* Whether a stretch of `longest` and more of such letters is one of those that are looked for. */
static int has_stretch(const uint8_t *s, int64_t n, int64_t longest, int (*of)(uint8_t),
                       int (*is)(const uint8_t *, int64_t, int64_t)) {
  int64_t begin = 0;
  while (n - begin >= longest) { /* a sign far on leaves nothing to look at before it */
    int64_t at = begin + longest - 1;
    while (at >= begin && of(s[at])) at--;
    if (at >= begin) {
      begin = at + 1;
      continue;
    }
    int64_t end = begin + longest;
    while (end < n && of(s[end])) end++;
    if (is(s, begin, end)) return 1;
    begin = end + 1;
  }
  return 0;
}

/* Whether the machine of hints ends in s[*at ..], as long as something it knows goes on; then *at is behind that. */
static int is_hint(const Known *known, const uint8_t *s, int64_t n, int64_t *at) {
  int64_t state = 0;
  do {
    state = s[*at] < 0x80 ? known->steps[state * known->width + known->letters[s[*at]]] : 0;
    ++*at;
    if (known->ends[state] & 1) return 1;
    if (known->ends[state] && *at < n && (is_digit(s[*at]) || (s[*at] >= 'A' && s[*at] <= 'Z'))) return 1;
  } while (state && *at < n);
  return 0;
}

/* The machine is asked only where the first three letters of a hint may stand: of each the lowest five bits, which do not tell case. */
static int has_hint(const Known *known, const uint8_t *s, int64_t n) {
  unsigned three = 0;
  for (int64_t at = 0; at < n; at++) {
    three = (three << 5 | (s[at] & 31)) & 0x7FFF;
    if (!known->threes[three] || at < 2) continue;
    int64_t from = at - 2;
    if (is_hint(known, s, n, &from)) return 1;
    if (from > at) {
      at = from - 1;
      three = 0;
    }
  }
  return 0;
}

/* Groups of a chain of numbers._CHAIN that begins at `at`; `count` is one more than there is room for where there are more. Returns its end. */
static int64_t chain(const uint8_t *s, int64_t n, int64_t at, Group *groups, int *count) {
  *count = 0;
  for (;;) {
    int64_t end = at, next;
    while (end < n && is_digit(s[end])) end++;
    if (*count < MOST_GROUPS) groups[*count] = (Group){at, end - at};
    *count += *count <= MOST_GROUPS;
    for (next = end; next < n && next - end < 3 && is_between(s[next]); next++) {
    }
    if (next == end || next >= n || !is_digit(s[next])) return end;
    at = next;
  }
}

static int is_fraction(const uint8_t *s, int64_t at) { return s[at] == '/' && is_digit(s[at - 1]) && is_digit(s[at + 1]); }

/* numbers._is_attached, but for letters beyond ASCII. */
static int is_attached(const uint8_t *s, int64_t n, int64_t start, int64_t end) {
  if (start > 1 && (s[start - 1] == '-' || s[start - 1] == '/' || s[start - 1] == '\\') && is_alnum(s[start - 2]) &&
      !is_fraction(s, start - 1))
    return 1;
  return end + 1 < n && (s[end] == '-' || s[end] == '/') && is_alnum(s[end + 1]) && !is_fraction(s, end);
}

static int is_among(const Words *words, const uint8_t *s, int64_t n) {
  for (int64_t w = 0; w < words->n; w++) {
    const uint8_t *word = words->told + words->edges[w];
    if (words->edges[w + 1] - words->edges[w] != n) continue;
    int64_t k = 0;
    while (k < n && (s[k] | 32) == word[k]) k++;
    if (k == n) return 1;
  }
  return 0;
}

/* phones.is_said; also where a character beyond ASCII stands before. */
static int is_said(const Known *known, const uint8_t *s, int64_t start) {
  int64_t from = start;
  while (from > 0 && start - from < NEAR && !is_digit(s[from - 1]) && s[from - 1] != '\n')
    if (s[--from] >= 0x80) return 1;
  for (int64_t end = start; end > from && start - end <= CLOSE;) {
    if (!is_letter(s[end - 1])) {
      end--;
      continue;
    }
    int64_t begin = end;
    while (begin > from && is_letter(s[begin - 1])) begin--;
    if (is_among(&known->said, s + begin, end - begin)) return 1;
    end = begin;
  }
  return 0;
}

/* phones.is_north_american, not strict. */
static int is_north_american(const uint8_t *d, int n) {
  if (n != 10 || d[0] <= '1') return 0;
  const int fits = memcmp(d + 1, "11", 2) && d[3] > '1' && memcmp(d + 4, "11", 2);
  return fits || !memcmp(d, "555", 3) || !memcmp(d + 3, "555", 3);
}

/* phones.is_international. */
static int is_international(const Known *known, const uint8_t *d, int n) {
  if (n < 3) return 0;
  const uint8_t *code = known->codes + 3 * (100 * (d[0] - '0') + 10 * (d[1] - '0') + d[2] - '0');
  if (!code[0] || n - code[0] < code[1] || n - code[0] > code[2]) return 0;
  return d[0] != '1' || is_north_american(d + 1, n - 1);
}

/* numbers._international: whether the groups without their first `skip` digits begin with a number of some country. */
static int is_of_a_country(const Known *known, const uint8_t *s, const Group *groups, int count, int skip) {
  uint8_t digits[LONGEST_GROUP];
  int n = 0;
  for (int g = 0; g < count; g++) {
    const int64_t at = groups[g].at, end = at + groups[g].size;
    if (g && s[at - 1] == '(' && groups[g].size == 1 && s[at] == '0' && g + 1 < count && s[end] == ')') continue;
    const int64_t size = groups[g].size - (g ? 0 : skip);
    if (n + size > 15) return 0;
    memcpy(digits + n, s + end - size, (size_t)size);
    n += (int)size;
    if (is_international(known, digits, n)) return 1;
  }
  return 0;
}

static int is_luhn(const uint8_t *d, int n) {
  int total = 0;
  for (int k = 0; k < n; k++) {
    const int digit = d[n - 1 - k] - '0';
    total += k % 2 ? 2 * digit - (digit > 4 ? 9 : 0) : digit;
  }
  return total % 10 == 0;
}

/* What stands between group g and the next one. */
static inline const uint8_t *gap(const uint8_t *s, const Group *groups, int g, int64_t *size) {
  const int64_t end = groups[g].at + groups[g].size;
  *size = groups[g + 1].at - end;
  return s + end;
}

static int is_gap(const uint8_t *s, const Group *groups, int g, char sign) {
  int64_t size;
  const uint8_t *told = gap(s, groups, g, &size);
  return size == 1 && *told == (uint8_t)sign;
}

/* numbers._apart */
static int is_apart(const uint8_t *s, const Group *groups, int g) {
  int64_t size;
  const uint8_t *told = gap(s, groups, g, &size);
  return size > 1 || *told == ' ' || *told == '/' || *told == '(' || *told == ')';
}

/* Whether groups first..last are a part of more of their kind: `inside` of numbers._fit. */
static int is_inside(const uint8_t *s, const Group *groups, int count, int first, int last) {
  int blank = 0, within = 0;
  for (int side = 0; side < 2; side++) {
    if (side ? last + 1 >= count : !first) continue;
    const int g = side ? last : first - 1;
    if (is_gap(s, groups, g, '/')) return 1;
    blank |= is_gap(s, groups, g, ' ');
  }
  for (int g = first; g < last; g++) within |= is_gap(s, groups, g, ' ');
  return blank && within;
}

/* Keeps a number for who knows its checks. Returns SURE where it cannot. */
static unsigned keep(Open *open, const uint8_t *s, int64_t n, int64_t start, int64_t end, const uint8_t *digits, int size, int counts,
                     int64_t node, int64_t text) {
  if (open->n == open->room || size > MOST_DIGITS) return SURE;
  const int64_t from = start > NEAR ? start - NEAR : 0, to = n - end > BEHIND ? end + BEHIND : n;
  int64_t flags = counts ? COUNTS : 0, at = open->edges[open->n];
  if (is_ascii(s + from, start - from) && is_ascii(s + end, to - end)) {
    memcpy(open->told + at, s + from, (size_t)(start - from));
    at += start - from;
    open->told[at++] = ' ';
    memcpy(open->told + at, s + end, (size_t)(to - end));
    at += to - end;
  } else {
    flags |= NAMED;
  }
  const int64_t about[4] = {text, node, flags, size};
  memcpy(open->about + 4 * open->n, about, sizeof about);
  memcpy(open->digits + MOST_DIGITS * open->n, digits, (size_t)size);
  open->edges[++open->n] = at;
  return 0;
}

/* numbers._fit: SURE where groups first..last, which are of the layout that ends in `node`, may count by themselves. */
static unsigned fit(const Known *known, const uint8_t *s, int64_t n, const Group *groups, int count, int first, int last,
                    unsigned node, int64_t text, Open *open) {
  const int64_t start = groups[first].at, end = groups[last].at + groups[last].size;
  const unsigned fits = known->fits[node];
  if (is_attached(s, n, start, end)) return 0;
  uint8_t digits[MOST_DIGITS];
  int size = 0;
  for (int g = first; g <= last; g++) {
    if (size + groups[g].size > MOST_DIGITS) return SURE;
    memcpy(digits + size, s + groups[g].at, (size_t)groups[g].size);
    size += (int)groups[g].size;
  }
  const int inside = is_inside(s, groups, count, first, last);
  if (!inside) {
    const int own = size == 11 && digits[0] == '1';
    if (fits & PHONE && is_north_american(digits + own, size - own)) return SURE;
    if (fits & FRENCH && digits[0] == '0' && digits[1] != '0') return SURE;
  }
  const int counts = (fits & CARD && is_luhn(digits, size)) || (fits & STRONG && !inside);
  return counts || fits & (STRONG | WEAK) ? keep(open, s, n, start, end, digits, size, counts, node, text) : 0;
}

/* numbers._fitting over a chain. */
static unsigned layouts(const Known *known, const uint8_t *s, int64_t n, const Group *groups, int count, int64_t text, Open *open) {
  unsigned found = 0;
  for (int first = 0; first < count && !(found & SURE); first++) {
    if (first && !is_apart(s, groups, first - 1)) continue;
    unsigned node = 0;
    for (int last = first; last < count && !(found & SURE); last++) {
      int64_t size = 0;
      const uint8_t *told = last > first ? gap(s, groups, last - 1, &size) : NULL;
      for (int64_t k = 0; k < size; k++) {
        node = known->trie[node * SIGNS + LONGEST_GROUP + 1 + (unsigned)(strchr(BETWEEN, told[k]) - BETWEEN)];
        if (!node) break;
      }
      if ((last > first && !node) || groups[last].size > LONGEST_GROUP) break;
      node = known->trie[node * SIGNS + (unsigned)groups[last].size];
      if (!node) break;
      if (known->fits[node] && (last + 1 == count || is_apart(s, groups, last)))
        found |= fit(known, s, n, groups, count, first, last, node, text, open);
    }
  }
  return found;
}

/* numbers._chain of one chain: NUMBERS where something may be found in it, SURE where it may count by itself. */
static unsigned numbers(const Known *known, const uint8_t *s, int64_t n, int64_t at, int64_t *end, int64_t text, Open *open) {
  Group groups[MOST_GROUPS];
  int count;
  *end = chain(s, n, at, groups, &count);
  if (count > MOST_GROUPS) return NUMBERS | SURE;
  if (*end < n && is_word(s[*end])) count--; /* the last group goes on as a word */
  int64_t digits = 0;
  for (int g = 0; g < count; g++) digits += groups[g].size;
  if (digits < FEWEST) return 0;
  if (at > 0 && s[at - 1] == '+' && is_of_a_country(known, s, groups, count, 0)) return NUMBERS | SURE;
  if (groups[0].size > 3 && s[at] == '0' && s[at + 1] == '0' && is_of_a_country(known, s, groups, count, 2)) return NUMBERS | SURE;
  if (is_said(known, s, at)) return NUMBERS | SURE;
  return NUMBERS | layouts(known, s, n, groups, count, text, open);
}

/* Whether digits of s[start .. end] are beside a letter as an id with letters has them (national.NATIONAL, patterns): six and more side
   by side with it; two behind two letters and a blank, seven behind one and a sign; "2A"; three behind a point and before a letter. */
static int is_beside_letter(const uint8_t *s, int64_t n, int64_t start, int64_t end) {
  const int64_t size = end - start;
  const int many = size >= 6, third = size == 3 && start > 0 && s[start - 1] == '.';
  if (many && start > 0 && is_letter(s[start - 1])) return 1;
  if (start > 1 && (s[start - 1] == ' ' || s[start - 1] == '-') && is_letter(s[start - 2])) {
    const int two = start > 2 && is_letter(s[start - 3]);
    const int64_t before = start - 3 - two;
    if (size == (two ? 2 : 7) && !(before >= 0 && is_word(s[before]))) return 1;
  }
  if (end >= n) return 0;
  if (is_letter(s[end])) return many || third || (s[end - 1] == '2' && (s[end] | 32) <= 'b');
  if (size == 6 && (s[end] == '-' || s[end] == '+')) return 1;
  return (many || third) && (s[end] == '-' || s[end] == ' ') && end + 1 < n && is_letter(s[end + 1]) &&
         !(end + 2 < n && is_word(s[end + 2]));
}

/* All ways that begin at digits. */
static unsigned by_digits(const Known *known, const uint8_t *s, int64_t n, unsigned wanted, int64_t text, Open *open) {
  unsigned found = 0;
  int64_t chained = 0, near = 0, before = 0; /* where the last chain and group ended; digits with at most two signs between them */
  int beside = 0;
  for (int64_t at = 0; at < n; at = before) {
    while (at < n && !is_digit(s[at])) at++;
    if (at == n) break;
    int64_t end = at;
    while (end < n && is_digit(s[end])) end++;
    if (at - before > 2) near = beside = 0;
    near += end - at;
    beside |= is_beside_letter(s, n, at, end);
    before = end;
    if (near >= 6 && beside) found |= LETTERED; /* the fewest digits of an id with letters */
    if (wanted & IBAN && is_iban(known, s, n, at)) found |= IBAN;
    if (wanted & IP && is_address(known, s, n, at)) found |= IP;
    if (wanted & NUMBERS && !(found & SURE) && at >= chained && !(at > 0 && is_word(s[at - 1])))
      found |= numbers(known, s, n, at, &chained, text, open);
  }
  return found;
}

/* scan.ways. `scratch` has room for the longest text, `around` for `room` of NEAR + 1 + BEHIND bytes, `around_edges` for one more. Returns
   how many open numbers there are. */
int64_t luthier_private(const uint8_t *told, const int64_t *edges, int64_t texts, int64_t wanted, const uint8_t *forms,
                        const uint8_t *letters, const uint16_t *steps, const uint8_t *ends, int64_t width, const uint8_t *threes, const uint16_t *trie,
                        const uint8_t *fits, const uint8_t *codes, const uint8_t *ibans, const uint8_t *said,
                        const int64_t *said_edges, int64_t said_n, const uint8_t *versions, const int64_t *version_edges,
                        int64_t version_n, uint8_t *scratch, int64_t *about, uint8_t *digits, uint8_t *around, int64_t *around_edges,
                        int64_t room, uint8_t *out) {
  const Known known = {forms, letters, steps, ends, width, threes, trie, fits, codes, ibans, {said, said_edges, said_n},
                       {versions, version_edges, version_n}};
  const unsigned asked = (unsigned)wanted;
  Open open = {about, digits, around, around_edges, 0, room};
  around_edges[0] = 0;
  for (int64_t t = 0; t < texts; t++) {
    const uint8_t *s = told + edges[t];
    int64_t n = edges[t + 1] - edges[t];
    if (!is_ascii(s, n)) {
      n = readable(&known, s, n, scratch);
      s = scratch;
    }
    if (n < 0) {
      out[t] = (uint8_t)(asked | (asked & NUMBERS ? SURE : 0));
      continue;
    }
    unsigned found = by_digits(&known, s, n, asked, t, &open);
    if (asked & EMAIL && has_email(s, n)) found |= EMAIL;
    if (asked & IP && has_colons(s, n)) found |= IP;
    if (asked & LETTERED && has_stretch(s, n, 16, is_alnum, is_italian)) found |= LETTERED;
    if (asked & KEY && (has_hint(&known, s, n) || has_stretch(s, n, 32, is_small_hex, is_twilio))) found |= KEY;
    out[t] = (uint8_t)(found & (asked | SURE));
  }
  return open.n;
}

// Attention over pages: storing keys and values, and what each query makes of those before it.
// Decides how attention is divided into units, and how a unit is computed: by vectors or, for
// bfloat16 where there are any, by tile registers. Knows no weights and no adapters.
//
//   K page  [head_dim / V][16 tokens][V]    one word of a query by one vector: 16 tokens' scores
//   V page  [16 / V][head_dim][V]           one word of weights by one vector: 16 columns
//
// A unit is up to 16 query positions of one chunk and one key head. Tokens go by in groups of 64
// with a running softmax: sums so far are scaled down whenever a higher score turns up. Groups
// begin at multiples of 64 whatever the step, so that a row's bits do not depend on how its
// sequence was cut into chunks.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "program.hpp"
#include "space.hpp"
#include "threads.hpp"
#include "tiles.hpp"
#include "words.hpp"

namespace {

constexpr int PAGES_AT_ONCE = 4;
constexpr int TOKENS_AT_ONCE = PAGES_AT_ONCE * PAGE;
constexpr int PAGES_AHEAD = 8;  // of the next unit, that are asked for before it begins
constexpr int QUERIES = 16;     // positions of a unit
constexpr int HEADS = 4;        // that share a key head and are computed together, by vectors

// Pages whose scores are summed side by side: one product waits for the one before it in the same
// sum, so it takes six sums or so to keep the processor busy. Half the registers hold half as much.
#if defined(__AVX512F__)
constexpr int PAGES_SCORED = 2;
#else
constexpr int PAGES_SCORED = 1;
#endif

enum Half { KEYS, VALUES };

// Keys or values of one page, layer and key head.
template <class T>
T* page_of(const Space& space, int layer, Half half, int head, int64_t page) {
    const Shape& shape = space.shape;
    const Step& step = space.step;
    return reinterpret_cast<T*>(step.pool) + layer * step.layer_stride +
           (int64_t(half) * shape.kv_heads + head) * step.half_stride +
           page * PAGE * shape.head_dim;
}

template <class T>
void store_kv(const Space& space, const Operation& op, int64_t r) {
    const Shape& shape = space.shape;
    const int64_t page = space.step.cells[r] / PAGE;
    const int64_t at = space.step.cells[r] % PAGE;
    const int d = shape.head_dim;
    for (int h = 0; h < shape.kv_heads; ++h) {
        const float* key = space.row<float>(QKV, r) + shape.key_column + h * d;
        const float* value = space.row<float>(QKV, r) + shape.value_column + h * d;
        alignas(64) T narrow[MAX_HEAD_DIM];
        auto* keys = reinterpret_cast<int32_t*>(page_of<T>(space, op.layer, KEYS, h, page)) + at;
        for (int i = 0; i < d; i += LANES) put(narrow + i, load(key + i));
        for (int w = 0; w < d / V<T>; ++w) keys[w * PAGE] = word(narrow, w);
        T* values = page_of<T>(space, op.layer, VALUES, h, page) + at / V<T> * d * V<T> + at % V<T>;
        for (int i = 0; i < d; i += LANES) put(narrow + i, load(value + i));
        for (int i = 0; i < d; ++i) values[i * V<T>] = narrow[i];
    }
}

// --- units ---

// Where each chunk's units begin; the end of all comes last.
struct Units {
    std::vector<int64_t> begins;

    void count(const Step& step, int kv_heads) {
        begins.assign(1, 0);
        for (int64_t c = 0; c < step.num_chunks; ++c) {
            int64_t queries = (step.chunks[c].count + QUERIES - 1) / QUERIES;
            begins.push_back(begins.back() + queries * kv_heads);
        }
    }

    int64_t end() const { return begins.back(); }

    int64_t chunk_of(int64_t unit) const {
        return std::upper_bound(begins.begin(), begins.end(), unit) - begins.begin() - 1;
    }
};

// The keys and values that a thread will need next: pages of one sequence and head, asked for half
// a page at a time while it does something else.
struct Coming {
    const int32_t* pages;
    int layer;
    int kv_head;
    int halves;
    int asked;
};

// The first token that one at `last` sees; how many it sees is known.
inline int64_t first_seen(const Operation& op, int64_t last) {
    return op.window ? std::max<int64_t>(0, last - op.window + 1) : 0;
}

// Where the group of pages with this token begins.
inline int64_t group_of(int64_t token) { return token / TOKENS_AT_ONCE * TOKENS_AT_ONCE; }

inline Coming coming_of(const Space& space, const Units& units, const Operation& op,
                        int64_t unit) {
    if (unit >= units.end()) return {nullptr, op.layer, 0, 0, 0};
    const int64_t c = units.chunk_of(unit);
    const Chunk& chunk = space.step.chunks[c];
    const int64_t inside = unit - units.begins[c];
    const int64_t last = chunk.start + inside / space.shape.kv_heads * QUERIES;
    const int64_t base = group_of(first_seen(op, last));
    const int pages = int(std::min<int64_t>(PAGES_AHEAD, (last - base) / PAGE + 1));
    const int kv_head = int(inside % space.shape.kv_heads);
    return {chunk.pages + base / PAGE, op.layer, kv_head, 2 * pages, 0};
}

template <class T>
void ask(const Space& space, Coming& coming) {
    if (coming.asked == coming.halves) return;
    const Half half = Half(coming.asked % 2);
    const int64_t page = coming.pages[coming.asked / 2];
    const T* at = page_of<T>(space, coming.layer, half, coming.kv_head, page);
    const size_t bytes = PAGE * space.shape.head_dim * sizeof(T);
    for (size_t i = 0; i < bytes; i += LINE) prefetch(reinterpret_cast<const char*>(at) + i);
    ++coming.asked;
}

// Of the same unit, so it is wanted soon.
template <class T>
void prefetch_page(const Space& space, int layer, Half half, int kv_head, int64_t page) {
    const T* at = page_of<T>(space, layer, half, kv_head, page);
    const size_t bytes = PAGE * space.shape.head_dim * sizeof(T);
    for (size_t i = 0; i < bytes; i += LINE) prefetch_near(reinterpret_cast<const char*>(at) + i);
}

// Pages of the group from token `base` on, up to the one with token `last`.
inline int pages_in_group(int64_t base, int64_t last) {
    return int(std::min<int64_t>(PAGES_AT_ONCE, (last - base) / PAGE + 1));
}

// --- the running softmax of one row ---

struct Softmax {
    float most = -INFINITY;  // the highest score so far
    float mass = 0;          // sum of e^(score - most)
};

// Before any token was seen: a head with a sink has that much to give away to nobody.
inline Softmax begin_softmax(const Operation& op, int64_t head) {
    return op.second ? Softmax{op.second[head], 1.0f} : Softmax{};
}

// Which of a page's tokens, of which `base` is the first, lie from `first` to `last`.
inline Words seen(int64_t base, int64_t first, int64_t last) {
    const Words lanes = lane_numbers();
    const Words early = lanes <= int32_t(std::min<int64_t>(last - base, PAGE));
    return early & (lanes >= int32_t(std::clamp<int64_t>(first - base, 0, PAGE)));
}

// Scores as the softmax takes them.
inline Floats scored(const Operation& op, Floats products) {
    const Floats scores = products * op.factor;
    return op.cap == 0.0f ? scores : op.cap * hyperbolic_tangent(scores / op.cap);
}

// Takes in the scores of a group of pages and turns them into weights; what is not seen weighs
// nothing. Returns by what sums so far must be multiplied: 1 unless a score is higher than all
// before it.
template <class T>
inline __attribute__((always_inline)) float weigh(Softmax& row, Floats (&scores)[PAGES_AT_ONCE],
                                                  int pages, const Operation& op, int64_t base,
                                                  int64_t last, T* weights) {
    const int64_t first = first_seen(op, last);
    Floats top = spread(-INFINITY);
    Floats sum = {};
    for (int p = 0; p < pages; ++p) {
        const Floats s = scored(op, scores[p]);
        scores[p] = s;
        top = seen(base + p * PAGE, first, last) ? (s > top ? s : top) : top;
    }
    const float now = std::max(row.most, largest(top));
    if (now == -INFINITY) {  // nothing of these, nor of any before, is seen
        for (int p = 0; p < pages; ++p) put(weights + p * PAGE, Floats{});
        return 1.0f;
    }
    for (int p = 0; p < pages; ++p) {
        Floats e = exponential(scores[p] - now);
        e = seen(base + p * PAGE, first, last) ? e : Floats{};
        sum += e;
        put(weights + p * PAGE, e);
    }
    // before anything was seen, sums are 0 whatever they are multiplied by
    const float shrinkage =
        row.most == -INFINITY ? 0.0f : exponential(spread(row.most - now))[0];
    row.mass = row.mass * shrinkage + total(sum);
    row.most = now;
    return shrinkage;
}

// --- by vectors: one query position and G heads that share a key head ---

template <class T, int G>
struct Group {
    alignas(64) T query[G][MAX_HEAD_DIM];
    alignas(64) T weights[G][TOKENS_AT_ONCE];
    alignas(64) float sums[G][MAX_HEAD_DIM];
    Softmax softmax[G];
};

template <class T, int G, int P>
void score_pages(const Space& space, int layer, int kv_head, const int32_t* table,
                 const Group<T, G>& group, Floats (&scores)[G][PAGES_AT_ONCE], int p) {
    const T* keys[P];
    for (int i = 0; i < P; ++i) keys[i] = page_of<T>(space, layer, KEYS, kv_head, table[p + i]);
    const int words = space.shape.head_dim / V<T>;
    Floats sum[P][G] = {};
    for (int w = 0; w < words; ++w) {
        Words k[P];
        for (int i = 0; i < P; ++i) k[i] = load_words(keys[i] + w * PAGE * V<T>);
        for (int g = 0; g < G; ++g) {
            const Words number = spread(word(group.query[g], w));
            for (int i = 0; i < P; ++i) sum[i][g] = madd(sum[i][g], k[i], number, T{});
        }
    }
    for (int i = 0; i < P; ++i)
        for (int g = 0; g < G; ++g) scores[g][p + i] = sum[i][g];
}

// Adds the values of a group of pages, by their weights, to the sums. Each page has a sum of its
// own first: one long chain of float32 additions would lose digits.
template <class T, int G>
void mix_pages(const Space& space, int layer, int kv_head, const int32_t* table, int pages,
               const Floats (&shrinkage)[G], Group<T, G>& group, Coming& coming) {
    const int d = space.shape.head_dim;
    for (int i = 0; i < d; i += LANES) {
        ask<T>(space, coming);
        ask<T>(space, coming);
        Floats out[G];
        for (int g = 0; g < G; ++g) out[g] = load(group.sums[g] + i) * shrinkage[g];
        for (int p = 0; p < pages; ++p) {
            const T* values = page_of<T>(space, layer, VALUES, kv_head, table[p]) + i * V<T>;
            Floats part[G] = {};
            for (int t = 0; t < PAGE / V<T>; ++t) {
                const Words v = load_words(values + t * d * V<T>);
                for (int g = 0; g < G; ++g) {
                    const Words weight = spread(word(group.weights[g], p * PAGE / V<T> + t));
                    part[g] = madd(part[g], v, weight, T{});
                }
            }
            for (int g = 0; g < G; ++g) out[g] += part[g];
        }
        for (int g = 0; g < G; ++g) store(group.sums[g] + i, out[g]);
    }
}

template <class T, int G>
void attend_group(const Space& space, const Operation& op, const Chunk& chunk, int64_t q,
                  int kv_head, int head, Coming& coming) {
    const int d = space.shape.head_dim;
    const int layer = op.layer;
    const int64_t last = chunk.start + q;
    const int64_t begin = group_of(first_seen(op, last));
    Group<T, G> group;
    for (int g = 0; g < G; ++g) {
        const float* in =
            space.row<float>(QKV, chunk.row + q) + space.shape.query_column + (head + g) * d;
        for (int i = 0; i < d; i += LANES) put(group.query[g] + i, load(in + i));
        std::memset(group.sums[g], 0, d * 4);
        group.softmax[g] = begin_softmax(op, head + g);
    }
    for (int64_t base = begin; base <= last; base += TOKENS_AT_ONCE) {
        // The first pages were asked for before this unit began.
        const bool is_beyond = base >= begin + PAGES_AHEAD * PAGE;
        const int pages = pages_in_group(base, last);
        const int32_t* table = chunk.pages + base / PAGE;
        if (is_beyond)
            for (int p = 0; p < pages; ++p)
                prefetch_page<T>(space, layer, VALUES, kv_head, table[p]);
        Floats scores[G][PAGES_AT_ONCE];
        for (int p = 0; p < pages;) {
            ask<T>(space, coming);
            const bool several = pages - p >= PAGES_SCORED;
            if (several)
                score_pages<T, G, PAGES_SCORED>(space, layer, kv_head, table, group, scores, p);
            else score_pages<T, G, 1>(space, layer, kv_head, table, group, scores, p);
            p += several ? PAGES_SCORED : 1;
        }
        Floats shrinkage[G];
        for (int g = 0; g < G; ++g)
            shrinkage[g] = spread(weigh(group.softmax[g], scores[g], pages, op, base, last,
                                        group.weights[g]));
        const int64_t next = base + TOKENS_AT_ONCE;
        if (next <= last && next >= begin + PAGES_AHEAD * PAGE)
            for (int p = 0; p < pages_in_group(next, last); ++p)
                prefetch_page<T>(space, layer, KEYS, kv_head, table[PAGES_AT_ONCE + p]);
        mix_pages<T, G>(space, layer, kv_head, table, pages, shrinkage, group, coming);
    }
    for (int g = 0; g < G; ++g) {
        T* out = space.row<T>(MIXED, chunk.row + q) + (head + g) * d;
        const float share = 1.0f / group.softmax[g].mass;
        for (int i = 0; i < d; i += LANES) put(out + i, load(group.sums[g] + i) * share);
    }
}

template <class T>
void attend_heads(const Space& space, const Operation& op, const Chunk& chunk, int64_t q,
                  int kv_head, int head, int count, Coming& coming) {
    switch (count) {
        case 1: return attend_group<T, 1>(space, op, chunk, q, kv_head, head, coming);
        case 2: return attend_group<T, 2>(space, op, chunk, q, kv_head, head, coming);
        case 3: return attend_group<T, 3>(space, op, chunk, q, kv_head, head, coming);
        default: return attend_group<T, HEADS>(space, op, chunk, q, kv_head, head, coming);
    }
}

#if defined(__AMX_BF16__)

// --- by tile registers: up to 16 rows of a unit, one for each position and head ---

// Row i is query first + (from + i) / group of head (from + i) % group.
struct TileRows {
    alignas(64) Bf16 query[LANES][MAX_HEAD_DIM];
    alignas(64) Bf16 weights[LANES][TOKENS_AT_ONCE];
    alignas(64) float scores[LANES][TOKENS_AT_ONCE];
    alignas(64) float sums[LANES][MAX_HEAD_DIM];
    Softmax softmax[LANES];
    int64_t last[LANES];  // the position of the row, and so of the last token that it sees
};

inline void score_tile(const Bf16* keys, int d, const TileRows& tile, float* scores) {
    _tile_zero(0);
    for (int c = 0; c < d; c += 32) {
        _tile_loadd(4, tile.query[0] + c, MAX_HEAD_DIM * 2);
        _tile_loadd(5, keys + c * PAGE, PAGE * 4);
        _tile_dpbf16ps(0, 4, 5);
    }
    _tile_stored(0, scores, TOKENS_AT_ONCE * 4);
}

inline void mix_tile(const Space& space, int layer, int kv_head, const int32_t* table, int pages,
                     bool fresh, TileRows& tile) {
    const int d = space.shape.head_dim;
    for (int c = 0; c < d; c += 2 * LANES) {
        float* out = tile.sums[0] + c;
        if (fresh) {
            _tile_zero(0);
            _tile_zero(1);
        } else {
            _tile_loadd(0, out, MAX_HEAD_DIM * 4);
            _tile_loadd(1, out + LANES, MAX_HEAD_DIM * 4);
        }
        for (int p = 0; p < pages; ++p) {
            const Bf16* values = page_of<Bf16>(space, layer, VALUES, kv_head, table[p]) + 2 * c;
            _tile_loadd(6, tile.weights[0] + p * PAGE, TOKENS_AT_ONCE * 2);
            _tile_loadd(7, values, d * 4);
            _tile_loadd(3, values + 2 * LANES, d * 4);
            _tile_dpbf16ps(0, 6, 7);
            _tile_dpbf16ps(1, 6, 3);
        }
        _tile_stored(0, out, MAX_HEAD_DIM * 4);
        _tile_stored(1, out + LANES, MAX_HEAD_DIM * 4);
    }
}

// What a row cannot see yet weighs nothing, and adding nothing changes no bit, so a row's result
// does not depend on the others of its tile.
inline void attend_tile(const Space& space, const Operation& op, const Chunk& chunk,
                        int64_t first, int kv_head, int64_t from, int rows) {
    const Shape& shape = space.shape;
    const int d = shape.head_dim;
    const int layer = op.layer;
    const int group = shape.heads / shape.kv_heads;
    TileRows tile;
    for (int i = 0; i < rows; ++i) {
        const int64_t q = first + (from + i) / group;
        const int64_t head = kv_head * group + (from + i) % group;
        const float* in = space.row<float>(QKV, chunk.row + q) + shape.query_column + head * d;
        for (int c = 0; c < d; c += LANES) put(tile.query[i] + c, load(in + c));
        tile.last[i] = chunk.start + q;
        tile.softmax[i] = begin_softmax(op, head);
    }
    for (int i = rows; i < LANES; ++i) {
        std::memset(tile.query[i], 0, d * 2);
        std::memset(tile.weights[i], 0, TOKENS_AT_ONCE * 2);
    }
    finish_writing();
    const int64_t end = tile.last[rows - 1];
    const int64_t begin = group_of(first_seen(op, tile.last[0]));
    for (int64_t base = begin; base <= end; base += TOKENS_AT_ONCE) {
        const int pages = pages_in_group(base, end);
        const int32_t* table = chunk.pages + base / PAGE;
        for (int p = 0; p < pages; ++p)
            prefetch_page<Bf16>(space, layer, VALUES, kv_head, table[p]);
        for (int p = 0; p < pages; ++p)
            score_tile(page_of<Bf16>(space, layer, KEYS, kv_head, table[p]), d, tile,
                       tile.scores[0] + p * PAGE);
        for (int i = 0; i < rows; ++i) {
            Floats scores[PAGES_AT_ONCE];
            for (int p = 0; p < pages; ++p) scores[p] = load(tile.scores[i] + p * PAGE);
            const float shrinkage = weigh(tile.softmax[i], scores, pages, op, base,
                                          tile.last[i], tile.weights[i]);
            if (base != begin && shrinkage != 1.0f)
                for (int c = 0; c < d; c += LANES)
                    store(tile.sums[i] + c, load(tile.sums[i] + c) * shrinkage);
        }
        finish_writing();
        const int64_t next = base + TOKENS_AT_ONCE;
        if (next <= end)
            for (int p = 0; p < pages_in_group(next, end); ++p)
                prefetch_page<Bf16>(space, layer, KEYS, kv_head, table[PAGES_AT_ONCE + p]);
        mix_tile(space, layer, kv_head, table, pages, base == begin, tile);
    }
    for (int i = 0; i < rows; ++i) {
        const int64_t head = kv_head * group + (from + i) % group;
        Bf16* out = space.row<Bf16>(MIXED, chunk.row + first + (from + i) / group) + head * d;
        const float share = 1.0f / tile.softmax[i].mass;
        for (int c = 0; c < d; c += LANES) put(out + c, load(tile.sums[i] + c) * share);
    }
}

#endif

// --- all units ---

template <class T>
bool by_tiles(const Space& space) {
    return HAS_TILES && sizeof(T) == 2 && space.shape.head_dim % 32 == 0;
}

template <class T>
void attend_unit(const Space& space, const Operation& op, const Chunk& chunk, int64_t first,
                 int kv_head, Coming& coming) {
    const int group = space.shape.heads / space.shape.kv_heads;
    const int64_t queries = std::min<int64_t>(QUERIES, chunk.count - first);
#if defined(__AMX_BF16__)
    if (by_tiles<T>(space)) {
        const int pages = std::min(PAGES_AT_ONCE, coming.halves / 2);
        for (int p = 0; p < pages; ++p)
            prefetch_page<T>(space, op.layer, KEYS, coming.kv_head, coming.pages[p]);
        for (int64_t r = 0; r < queries * group; r += LANES) {
            const int rows = int(std::min<int64_t>(LANES, queries * group - r));
            attend_tile(space, op, chunk, first, kv_head, r, rows);
        }
        return;
    }
#endif
    for (int64_t q = first; q < first + queries; ++q)
        for (int g = 0; g < group; g += HEADS)
            attend_heads<T>(space, op, chunk, q, kv_head, kv_head * group + g,
                            std::min(HEADS, group - g), coming);
}

// One unit is claimed ahead, so that its first pages come in meanwhile; those of a thread's first
// are asked for all at once.
template <class T>
void attend(const Space& space, const Units& units, Claims& claims, const Operation& op) {
    const size_t at = space.index_of(op);
    const int kv_heads = space.shape.kv_heads;
    int64_t unit = claims.next_unit(at);
    if (unit < units.end() && !by_tiles<T>(space))
        for (Coming own = coming_of(space, units, op, unit); own.asked < own.halves;)
            ask<T>(space, own);
    while (unit < units.end()) {
        const int64_t after = claims.next_unit(at);
        Coming coming = coming_of(space, units, op, after);
        const int64_t c = units.chunk_of(unit);
        const int64_t inside = unit - units.begins[c];
        attend_unit<T>(space, op, space.step.chunks[c], inside / kv_heads * QUERIES,
                       int(inside % kv_heads), coming);
        unit = after;
    }
}

}  // namespace

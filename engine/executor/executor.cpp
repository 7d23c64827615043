// Runs one step of a decoder on a CPU: a short program of operations over shared buffers, by all threads in one parallel region.
// Decides nothing: the program, the rows and every address come from engine/executor/native.py, where each layout is described.
//
//   word   32 bits: one float, or two bfloat16, or four int8; V numbers. All weights lie so that 16 words make one vector:
//          linear [panel][in / V][32 columns][V]      expand [block of 16 columns][rank / V][16][V]
//          K page [head_dim / V][16 tokens][V]        V page [16 / V][head_dim][V]
//   madd   accumulators += words * one word: the one operation behind products, adapters and attention.
//
// Every row's result depends on that row alone, bit for bit: sums run in one fixed order whatever the number of rows or threads.
// Built several times, once per instruction set (build.py); this file asks only for what the compiler was told the processor has.

#include <immintrin.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <climits>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <linux/futex.h>
#include <vector>

#include "draw.hpp"

namespace {

typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Words __attribute__((vector_size(64)));
typedef float LooseFloats __attribute__((vector_size(64), aligned(4)));
typedef int32_t LooseWords __attribute__((vector_size(64), aligned(4)));

struct Bf16 { uint16_t bits; };

#if defined(__AVX512F__)
constexpr int MAX_TILE_ROWS = 12, PAGES_SCORED = 2;
#else
constexpr int MAX_TILE_ROWS = 3, PAGES_SCORED = 1;  // 16 registers of half a vector each
#endif
#if defined(__AMX_BF16__)
constexpr bool HAS_TILES = true, LISTS_LINES = false;
#else
constexpr bool HAS_TILES = false, LISTS_LINES = MAX_TILE_ROWS == 12;
#endif
constexpr int PANEL = 32, LANES = 16, BLOCK_ROWS = 32, PAGE = 16, PAGES_AT_ONCE = 4, PAGES_AHEAD = 8, PARTS = 7, SITE_PARTS = 3, MAX_HEAD_DIM = 256, PREFETCH_STEPS = 4, CHAIN_WORDS = 32;
constexpr int TALL_STEPS = 8;  // 24 KiB of weights
constexpr int SPARSE_ROWS = 4;
constexpr size_t LINES_A_ROW = 16, SPARSE_BYTES_AHEAD = 4 << 10, BYTES_AHEAD = 24 << 10;
constexpr int SPINS_BEFORE_YIELD = 4000, SPINS_BEFORE_SLEEP = 60000;

inline Floats load(const void* at) { return *static_cast<const LooseFloats*>(at); }
inline Words load_words(const void* at) { return *static_cast<const LooseWords*>(at); }
inline void store(void* at, Floats value) { *static_cast<LooseFloats*>(at) = value; }
inline Floats spread(float value) { return value - Floats{}; }
inline Words spread(int32_t value) { return value - Words{}; }

inline float total(Floats x) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)x);
#else
    float half[8], quarter[4];
    for (int i = 0; i < 8; ++i) half[i] = x[i] + x[i + 8];
    for (int i = 0; i < 4; ++i) quarter[i] = half[i] + half[i + 4];
    return (quarter[0] + quarter[2]) + (quarter[1] + quarter[3]);
#endif
}

inline float largest(Floats x) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps((__m512)x);
#else
    float most = x[0];
    for (int i = 1; i < LANES; ++i) most = std::max(most, x[i]);
    return most;
#endif
}

// Lines into the second-level cache: the processor's own prefetcher reaches only so far ahead of tile loads.
template <int LINES> inline void prefetch(const void* at) {
    for (int i = 0; i < LINES; ++i) _mm_prefetch(static_cast<const char*>(at) + i * 64, _MM_HINT_T1);
}

// Addresses of R rows from few registers: every third row's, and how far two more lie behind it, which one instruction adds up.
template <int R> struct Rows {
    const char* thirds[(R + 2) / 3];
    size_t stride;
    Rows(const char* x, size_t s) : stride(s) {
        for (int g = 0; g < (R + 2) / 3; ++g) thirds[g] = x + s * 3 * g;
    }
    const char* operator[](int i) const { return thirds[i / 3] + stride * (i % 3); }
};

// --- numbers of one word ---

template <class T> constexpr int V = 4 / sizeof(T);

inline Floats madd(Floats sum, Words w, Words x, float) { return sum + (Floats)w * (Floats)x; }

inline Floats madd(Floats sum, Words w, Words x, Bf16) {
#if defined(__AVX512BF16__)
    return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)w, (__m512bh)x);
#else
    sum += (Floats)(w << 16) * (Floats)(x << 16);
    return sum + (Floats)(w & spread(int32_t(0xffff0000))) * (Floats)(x & spread(int32_t(0xffff0000)));
#endif
}

inline Words madd(Words sum, Words w, Words x) {  // four unsigned x times four signed w
#if defined(__AVX512VNNI__)
    return (Words)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)x, (__m512i)w);
#else
    for (int shift = 0; shift < 32; shift += 8) sum += ((w << (24 - shift)) >> 24) * ((x >> shift) & 255);
    return sum;
#endif
}

inline uint16_t round_bf16(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return uint16_t((bits >> 16) | 64);
    return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline void put(float* at, Floats x) { store(at, x); }
inline void put(Bf16* at, Floats x) {
#if defined(__AVX512BF16__)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), (__m256i)_mm512_cvtneps_pbh((__m512)x));
#else
    for (int i = 0; i < LANES; ++i) at[i].bits = round_bf16(x[i]);
#endif
}
inline void put_one(float* at, float x) { *at = x; }
inline void put_one(Bf16* at, float x) { at->bits = round_bf16(x); }

inline Floats get(const float* at) { return load(at); }
inline Floats get(const Bf16* at) {
#if defined(__AVX512F__)
    return (Floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at))), 16);
#else
    Words wide;
    for (int i = 0; i < LANES; ++i) wide[i] = int32_t(uint32_t(at[i].bits) << 16);
    return (Floats)wide;
#endif
}

// e^x to about 2 ulp: 2^n * 2^f with |f| <= 1/2, f by a polynomial (Cephes' expf).
inline Floats exponential(Floats x) {
    x = x > 88.0f ? spread(88.0f) : x;
    x = x < -87.0f ? spread(-87.0f) : x;
    Floats scaled = x * 1.44269504088896341f;
    Words n = __builtin_convertvector(scaled + (scaled < 0 ? spread(-0.5f) : spread(0.5f)), Words);
    Floats whole = __builtin_convertvector(n, Floats);
    Floats f = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
    Floats p = spread(1.9875691500e-4f);
    p = p * f + 1.3981999507e-3f;
    p = p * f + 8.3334519073e-3f;
    p = p * f + 4.1665795894e-2f;
    p = p * f + 1.6666665459e-1f;
    p = p * f + 5.0000001201e-1f;
    p = p * f * f + f + 1.0f;
    return p * (Floats)((n + 127) << 23);
}

// --- what Python describes (native.py holds the same structures) ---

enum Kind : int32_t { EMBED, NORM, LINEAR, NORM_HEADS, ROTATE, STORE, ATTEND, PICK };
enum Ending : int32_t { WRITE, ADD, SWIGLU };
enum Place : int32_t { HIDDEN, NORMED, QKV, MIXED, GATED, PICKED, FINAL, LOGITS, NUM_PLACES };

struct Block { int32_t part, index, column, present; };  // 16 columns of a linear: whose, which of that part's, where they go

struct Operation {
    int32_t kind, layer, source, target, ending, width_in, num_panels, pad;
    float eps;
    int32_t quantised;
    const void* weight;
    const float* second;      // NORM_HEADS: the keys' weight; LINEAR: bias by packed column, or null
    const float* scale;       // int8: per packed column
    const int32_t* offset;    // int8: 128 * sum of the column
    const Block* blocks;
};

struct Shape {
    int32_t dtype, threads, hidden, heads, kv_heads, head_dim, query_column, key_column, value_column, vocab;
    int64_t widths[NUM_PLACES];  // columns of each place, padded to 32
    const float* cosine;         // [context][head_dim / 2]
    const float* sine;
};

struct Entry { int64_t rank; const char* shrink; const char* expand; const float* gain; const float* shift; };
struct Leaders { Floats highest; Words where; Floats sum; };  // of one row, lane by lane, as far as one thread has seen its logits
struct Change { const int32_t* expand; const int32_t* numbers; const float* gain; const float* shift; int64_t lanes; };
struct Segment { const Entry* table; int64_t first, count; };

// What is asked for while rows are multiplied, 12 at a time: of the weights `ahead`, both lines of each word in the only pass (of few rows every second
// line: the processor's own prefetcher brings the others, and asking for all would leave it nothing to see), or one in each of the first two, and what
// lies at `other` in each of these; with the words of the third pass, the `listed` lines.
enum Lines { NO_LINES, ONE_A_PASS, EVERY_SECOND, BOTH };
struct Asking {
    const char* ahead;
    Lines lines;
    int count = 0;
    const char* other[2];
    const char* listed[2 * BLOCK_ROWS * LANES];
};

// What one thread's shrinking reads in the linear that comes next, [from, to) each, and how far it was asked for.
struct Shrinks {
    struct Piece { const char *from, *to; };
    std::vector<Piece> pieces;
    size_t bytes = 0, asked = 0, piece = 0;
    void add(const char* from, size_t count) {
        if (count && !pieces.empty() && pieces.back().to == from) pieces.back().to += count;
        else if (count) pieces.push_back({from, from + count});
        bytes += count;
    }
    void clear() { pieces.clear(); bytes = asked = piece = 0; }
    // The next of it, one line a word; null when that has its turn later.
    const char* take(size_t until, size_t words) {
        if (piece == pieces.size() || asked >= until) return nullptr;
        Piece& next = pieces[piece];
        const char* from = next.from;
        size_t count = std::min<size_t>(next.to - from, words * 64);
        next.from += count;
        asked += count;
        if (next.from == next.to) ++piece;
        return from;
    }
};
struct Chunk { const int32_t* pages; int64_t row, count, start; };

struct Step {
    int64_t rows, num_segments, num_chunks, num_picked, layer_stride, half_stride, shrunk_words;
    const int64_t* tokens;
    const int64_t* positions;
    const int64_t* cells;
    const Entry* const* tables;  // per row; null: the bare base
    const Segment* segments;     // of adapters only
    const Chunk* chunks;
    const int64_t* picked;
    char* pool;
    const float* embedded;       // [rows][hidden], or null: look up
    float* logits;               // [num_picked][widths[LOGITS]]
    char* final;                 // [num_picked][hidden] numbers of the dtype
    int64_t* best;               // [num_picked]: the lowest id of the highest logit
    uint8_t* finite;             // [num_picked]: whether every logit is
};

struct Draws { Draw* first; int64_t count; const float* logits; int64_t stride; };

// --- threads: all run every operation; waits spin, then yield, and between steps sleep ---

struct Barrier {
    std::atomic<int> arrived{0}, round{0};
    void wait(int threads) {
        if (threads == 1) return;
        int seen = round.load(std::memory_order_relaxed);
        if (arrived.fetch_add(1, std::memory_order_acq_rel) == threads - 1) {
            arrived.store(0, std::memory_order_relaxed);
            round.store(seen + 1, std::memory_order_release);
            return;
        }
        for (int spins = 0; round.load(std::memory_order_acquire) == seen; ++spins) {
            if (spins < SPINS_BEFORE_YIELD) _mm_pause();
            else sched_yield();
        }
    }
};

struct Buffer {
    char* data = nullptr;
    size_t stride = 0, size = 0;
    ~Buffer() { std::free(data); }
    void reserve(size_t rows, size_t row_bytes, size_t guard) {
        // One cache line more than the row: rows 4096 bytes apart would all fall into the same cache set.
        size_t next = (row_bytes + 63) / 64 * 64 + guard, needed = std::max<size_t>(64, next * rows);
        if (next == stride && needed <= size) return;
        std::free(data);
        stride = next;
        size = needed;
        data = static_cast<char*>(std::aligned_alloc(64, size));
        if (!data) { size = 0; throw std::bad_alloc(); }
        std::memset(data, 0, size);
    }
};

struct Executor {
    Shape shape;
    std::vector<Operation> program;
    Buffer places[NUM_PLACES], quantised, shrunk;
    std::vector<float> row_scales;
    std::vector<int64_t> attend_units;
    std::vector<std::vector<Change>> changes;   // by thread
    std::vector<Shrinks> shrinks;               // by thread
    std::vector<std::vector<int64_t>> loads;    // by thread: what share_out gave to each
    std::vector<std::vector<Leaders>> leaders;  // by thread
    std::vector<Drawer> drawers;                // by thread
    std::vector<Buffer> tall;                   // by thread
    Step step{};
    Draws draws{};
    Barrier barrier;
    std::vector<std::atomic<int64_t>> counters;  // of each thread's share of each operation; the last one for draws
    std::vector<pthread_t> workers;
    std::atomic<int> epoch{0};
    std::atomic<bool> ending{false};

    explicit Executor(const Shape& s, const Operation* operations, int count)
        : shape(s), program(operations, operations + count), changes(s.threads), shrinks(s.threads), loads(s.threads), leaders(s.threads), drawers(s.threads), tall(s.threads), counters(s.threads * count + 1) {}

    template <class T> size_t number_bytes(int place) const {
        bool wide = place == HIDDEN || place == QKV || place == PICKED || place == LOGITS;
        return wide ? 4 : sizeof(T);
    }

    template <class T> T* row(int place, int64_t index) { return reinterpret_cast<T*>(places[place].data + places[place].stride * index); }

    template <class T> void reserve() {
        int64_t rows = std::max(step.rows, step.num_picked);
        rows = (rows + BLOCK_ROWS - 1) / BLOCK_ROWS * BLOCK_ROWS;
        int64_t widest = 0;
        for (int place = 0; place < LOGITS; ++place) {
            places[place].reserve(rows, shape.widths[place] * number_bytes<T>(place), 64);
            widest = std::max(widest, shape.widths[place]);
        }
        quantised.reserve(rows, widest, 64);
        shrunk.reserve(rows, std::max<int64_t>(1, step.shrunk_words) * 4, 0);
        for (auto& seen : leaders) seen.assign(step.num_picked, {spread(-INFINITY), Words{}, Floats{}});
        if (int64_t(row_scales.size()) < rows) row_scales.resize(rows);
        attend_units.assign(1, 0);
        for (int64_t c = 0; c < step.num_chunks; ++c)
            attend_units.push_back(attend_units.back() + (step.chunks[c].count + LANES - 1) / LANES * shape.kv_heads);
    }

    // --- operations ---

    template <class T> void embed(const Operation& op, int64_t r) {
        float* out = row<float>(HIDDEN, r);
        if (step.embedded) {
            std::memcpy(out, step.embedded + r * shape.hidden, shape.hidden * 4);
            return;
        }
        const T* in = static_cast<const T*>(op.weight) + step.tokens[r] * shape.hidden;
        int i = 0;
        for (; i + LANES <= shape.hidden; i += LANES) store(out + i, get(in + i));
        for (; i < shape.hidden; ++i) {
            if constexpr (sizeof(T) == 4) out[i] = in[i];
            else { uint32_t bits = uint32_t(in[i].bits) << 16; std::memcpy(out + i, &bits, 4); }
        }
    }

    template <class T> void norm(const Operation& op, int64_t r) {
        const float* in = row<float>(op.source, r);
        T* out = row<T>(op.target, r);
        norm_one(in, static_cast<const float*>(op.weight), op.width_in, op.eps, out);
    }

    // Rows are padded with zeros to whole vectors, and so are the weights of the norm.
    template <class T> static void norm_one(const float* in, const float* weight, int width, float eps, T* out) {
        Floats squares[2] = {};
        int i = 0;
        for (; i + 2 * LANES <= width; i += 2 * LANES)
            for (int h = 0; h < 2; ++h) squares[h] += load(in + i + h * LANES) * load(in + i + h * LANES);
        float sum = total(squares[0] + squares[1]);
        for (int j = i; j < width; ++j) sum += in[j] * in[j];
        float factor = 1.0f / std::sqrt(sum / float(width) + eps);
        for (i = 0; i + LANES <= width; i += LANES) put(out + i, load(in + i) * factor * load(weight + i));
        for (; i < width; ++i) put_one(out + i, in[i] * factor * weight[i]);
    }

    void norm_heads(const Operation& op, int64_t r) {
        float* in = row<float>(QKV, r);
        for (int h = 0; h < shape.heads; ++h) {
            float* head = in + shape.query_column + h * shape.head_dim;
            norm_one(head, static_cast<const float*>(op.weight), shape.head_dim, op.eps, head);
        }
        for (int h = 0; h < shape.kv_heads; ++h) {
            float* head = in + shape.key_column + h * shape.head_dim;
            norm_one(head, op.second, shape.head_dim, op.eps, head);
        }
    }

    void rotate(int64_t r) {
        int half = shape.head_dim / 2;
        const float* cosine = shape.cosine + step.positions[r] * half;
        const float* sine = shape.sine + step.positions[r] * half;
        for (int h = 0; h < shape.heads + shape.kv_heads; ++h) {
            float* first = row<float>(QKV, r) + (h < shape.heads ? shape.query_column + h * shape.head_dim
                                                               : shape.key_column + (h - shape.heads) * shape.head_dim);
            float* second = first + half;
            int i = 0;
            for (; i + LANES <= half; i += LANES) {
                Floats a = load(first + i), b = load(second + i), c = load(cosine + i), s = load(sine + i);
                store(first + i, a * c - b * s);
                store(second + i, b * c + a * s);
            }
            for (; i < half; ++i) {
                float a = first[i], b = second[i];
                first[i] = a * cosine[i] - b * sine[i];
                second[i] = b * cosine[i] + a * sine[i];
            }
        }
    }

    template <class T> T* page_of(int layer, int half, int head, int64_t page) const {
        return reinterpret_cast<T*>(step.pool) + layer * step.layer_stride + (int64_t(half) * shape.kv_heads + head) * step.half_stride +
               page * PAGE * shape.head_dim;
    }

    template <class T> void store_kv(const Operation& op, int64_t r) {
        int64_t page = step.cells[r] / PAGE, at = step.cells[r] % PAGE;
        int d = shape.head_dim;
        for (int h = 0; h < shape.kv_heads; ++h) {
            const float* key = row<float>(QKV, r) + shape.key_column + h * d;
            const float* value = row<float>(QKV, r) + shape.value_column + h * d;
            T* keys = page_of<T>(op.layer, 0, h, page);
            T* values = page_of<T>(op.layer, 1, h, page) + at / V<T> * d * V<T> + at % V<T>;
            alignas(64) T narrow[MAX_HEAD_DIM];
            int32_t* words = reinterpret_cast<int32_t*>(keys) + at;
            for (int i = 0; i < d; i += LANES) put(narrow + i, load(key + i));
            for (int w = 0; w < d / V<T>; ++w) words[w * PAGE] = word(narrow, w);
            for (int i = 0; i < d; i += LANES) put(narrow + i, load(value + i));
            for (int i = 0; i < d; ++i) values[i * V<T>] = narrow[i];
        }
    }

    // --- attention: one query position and up to four heads that share a key head, over 64 tokens at a time with a running softmax ---

    // The keys and values that a thread will need next: pages of one sequence and head, asked for half a page at a time while it does something else.
    struct Coming { const int32_t* pages; int layer, kv_head, halves, asked; };

    template <class T> void attend(const Operation& op, std::atomic<int64_t>& next) {
        bool is_first = true;
        for (int64_t unit = next.fetch_add(1, std::memory_order_relaxed), after; unit < attend_units.back(); unit = after, is_first = false) {
            after = next.fetch_add(1, std::memory_order_relaxed);  // claimed ahead, so that its first pages come in meanwhile
            Coming coming = of_unit(op.layer, after);
            int64_t c = chunk_of(unit);
            const Chunk& chunk = step.chunks[c];
            int64_t inside = unit - attend_units[c], first = inside / shape.kv_heads * LANES;
            int kv_head = int(inside % shape.kv_heads), group = shape.heads / shape.kv_heads;
#if defined(__AMX_BF16__)
            if (sizeof(T) == 2 && shape.head_dim % 32 == 0) {
                for (int p = 0; p < std::min(PAGES_AT_ONCE, coming.halves / 2); ++p) prefetch_page<T>(op.layer, 0, coming.kv_head, coming.pages[p]);
                int64_t rows = std::min<int64_t>(LANES, chunk.count - first) * group;
                for (int64_t r = 0; r < rows; r += LANES) attend_tile(op.layer, chunk, first, kv_head, r, int(std::min<int64_t>(LANES, rows - r)));
                continue;
            }
#endif
            if (is_first)
                for (Coming own = of_unit(op.layer, unit); own.asked < own.halves;) ask<T>(own);
            for (int64_t q = first; q < std::min(first + LANES, chunk.count); ++q)
                for (int g = 0; g < group; g += 4) attend_heads<T>(op.layer, chunk, q, kv_head, kv_head * group + g, std::min(4, group - g), coming);
        }
    }

    int64_t chunk_of(int64_t unit) const { return std::upper_bound(attend_units.begin(), attend_units.end(), unit) - attend_units.begin() - 1; }

    Coming of_unit(int layer, int64_t unit) const {
        if (unit >= attend_units.back()) return {nullptr, layer, 0, 0, 0};
        int64_t c = chunk_of(unit);
        int pages = int(std::min<int64_t>(PAGES_AHEAD, step.chunks[c].start / PAGE + 1));
        return {step.chunks[c].pages, layer, int((unit - attend_units[c]) % shape.kv_heads), 2 * pages, 0};
    }

    template <class T> void ask(Coming& coming) const {
        if (coming.asked == coming.halves) return;
        const char* at = reinterpret_cast<const char*>(page_of<T>(coming.layer, coming.asked % 2, coming.kv_head, coming.pages[coming.asked / 2]));
        for (size_t i = 0; i < PAGE * shape.head_dim * sizeof(T); i += 64) _mm_prefetch(at + i, _MM_HINT_T1);
        ++coming.asked;
    }

    template <class T> void attend_heads(int layer, const Chunk& chunk, int64_t q, int kv_head, int head, int count, Coming& coming) {
        switch (count) {
            case 1: return attend_group<T, 1>(layer, chunk, q, kv_head, head, coming);
            case 2: return attend_group<T, 2>(layer, chunk, q, kv_head, head, coming);
            case 3: return attend_group<T, 3>(layer, chunk, q, kv_head, head, coming);
            default: return attend_group<T, 4>(layer, chunk, q, kv_head, head, coming);
        }
    }

    template <class T, int G> void attend_group(int layer, const Chunk& chunk, int64_t q, int kv_head, int head, Coming& coming) {
        constexpr int TOKENS = PAGES_AT_ONCE * PAGE;
        int d = shape.head_dim, words = d / V<T>;
        alignas(64) T query[G][MAX_HEAD_DIM];
        alignas(64) T weights[G][TOKENS];
        alignas(64) float sums[G][MAX_HEAD_DIM];
        float most[G], mass[G];
        for (int g = 0; g < G; ++g) {
            const float* in = row<float>(QKV, chunk.row + q) + shape.query_column + (head + g) * d;
            for (int i = 0; i < d; i += LANES) put(query[g] + i, load(in + i));
            std::memset(sums[g], 0, d * 4);
            most[g] = -INFINITY;
            mass[g] = 0;
        }
        float scale = 1.0f / std::sqrt(float(d));
        const int64_t last = chunk.start + q;
        for (int64_t base = 0; base <= last; base += TOKENS) {
            int pages = int(std::min<int64_t>(PAGES_AT_ONCE, (last - base) / PAGE + 1));
            const int32_t* table = chunk.pages + base / PAGE;
            Floats scores[G][PAGES_AT_ONCE];
            if (base >= PAGES_AHEAD * PAGE)
                for (int p = 0; p < pages; ++p) prefetch_page<T>(layer, 1, kv_head, table[p]);
            for (int p = 0; p < pages;) {
                ask<T>(coming);
                const bool several = pages - p >= PAGES_SCORED;
                if (several) score_pages<T, G, PAGES_SCORED>(layer, kv_head, table + p, query, words, scores, p);
                else score_pages<T, G, 1>(layer, kv_head, table + p, query, words, scores, p);
                p += several ? PAGES_SCORED : 1;
            }
            Floats correction[G];
            for (int g = 0; g < G; ++g) {
                Floats top = spread(-INFINITY), sum = {};
                for (int p = 0; p < pages; ++p) {
                    Floats s = scores[g][p] * scale;
                    scores[g][p] = s;
                    top = seen(base + p * PAGE, last) ? (s > top ? s : top) : top;
                }
                float now = std::max(most[g], largest(top));
                for (int p = 0; p < pages; ++p) {
                    Floats e = exponential(scores[g][p] - now);
                    e = seen(base + p * PAGE, last) ? e : Floats{};
                    sum += e;
                    put(weights[g] + p * PAGE, e);
                }
                float shrinkage = base == 0 ? 0.0f : exponential(spread(most[g] - now))[0];
                correction[g] = spread(shrinkage);
                mass[g] = mass[g] * shrinkage + total(sum);
                most[g] = now;
            }
            if (base + TOKENS <= last && base + TOKENS >= PAGES_AHEAD * PAGE)
                for (int p = 0; p < int(std::min<int64_t>(PAGES_AT_ONCE, (last - base - TOKENS) / PAGE + 1)); ++p)
                    prefetch_page<T>(layer, 0, kv_head, table[PAGES_AT_ONCE + p]);
            for (int i = 0; i < d; i += LANES) {
                ask<T>(coming);
                ask<T>(coming);
                Floats out[G];
                for (int g = 0; g < G; ++g) out[g] = load(sums[g] + i) * correction[g];
                for (int p = 0; p < pages; ++p) {
                    const int32_t* values = reinterpret_cast<const int32_t*>(page_of<T>(layer, 1, kv_head, table[p])) + i;
                    Floats part[G] = {};
                    for (int t = 0; t < PAGE / V<T>; ++t) {
                        Words v = load_words(values + t * d);
                        for (int g = 0; g < G; ++g) part[g] = madd(part[g], v, spread(word(weights[g], p * PAGE / V<T> + t)), T{});
                    }
                    for (int g = 0; g < G; ++g) out[g] += part[g];
                }
                for (int g = 0; g < G; ++g) store(sums[g] + i, out[g]);
            }
        }
        for (int g = 0; g < G; ++g) {
            T* out = row<T>(MIXED, chunk.row + q) + (head + g) * d;
            float share = 1.0f / mass[g];
            for (int i = 0; i < d; i += LANES) put(out + i, load(sums[g] + i) * share);
        }
    }

#if defined(__AMX_BF16__)
    // The same by tile registers, for up to 16 rows: row i is query first + (from + i) / group of head (from + i) % group. What a row cannot see
    // yet weighs nothing, and adding nothing changes no bit, so a row's result does not depend on the others of its tile.
    void attend_tile(int layer, const Chunk& chunk, int64_t first, int kv_head, int64_t from, int rows) {
        constexpr int TOKENS = PAGES_AT_ONCE * PAGE;
        const int d = shape.head_dim, group = shape.heads / shape.kv_heads;
        const float scale = 1.0f / std::sqrt(float(d));
        alignas(64) Bf16 query[LANES][MAX_HEAD_DIM], weights[LANES][TOKENS];
        alignas(64) float scores[LANES][TOKENS], sums[LANES][MAX_HEAD_DIM];
        float most[LANES], mass[LANES];
        int64_t last[LANES];
        for (int i = 0; i < rows; ++i) {
            int64_t q = first + (from + i) / group;
            const float* in = row<float>(QKV, chunk.row + q) + shape.query_column + (kv_head * group + (from + i) % group) * d;
            for (int c = 0; c < d; c += LANES) put(query[i] + c, load(in + c));
            last[i] = chunk.start + q;
            most[i] = -INFINITY;
            mass[i] = 0;
        }
        for (int i = rows; i < LANES; ++i) {
            std::memset(query[i], 0, d * 2);
            std::memset(weights[i], 0, TOKENS * 2);
        }
        const int64_t end = last[rows - 1];
        for (int64_t base = 0; base <= end; base += TOKENS) {
            int pages = int(std::min<int64_t>(PAGES_AT_ONCE, (end - base) / PAGE + 1));
            const int32_t* table = chunk.pages + base / PAGE;
            for (int p = 0; p < pages; ++p) prefetch_page<Bf16>(layer, 1, kv_head, table[p]);
            for (int p = 0; p < pages; ++p) {
                const Bf16* keys = page_of<Bf16>(layer, 0, kv_head, table[p]);
                _tile_zero(0);
                for (int c = 0; c < d; c += 32) {
                    _tile_loadd(4, query[0] + c, MAX_HEAD_DIM * 2);
                    _tile_loadd(5, keys + c * PAGE, PAGE * 4);
                    _tile_dpbf16ps(0, 4, 5);
                }
                _tile_stored(0, scores[0] + p * PAGE, TOKENS * 4);
            }
            for (int i = 0; i < rows; ++i) {
                Floats s[PAGES_AT_ONCE], top = spread(-INFINITY), sum = {};
                for (int p = 0; p < pages; ++p) {
                    s[p] = load(scores[i] + p * PAGE) * scale;
                    top = seen(base + p * PAGE, last[i]) ? (s[p] > top ? s[p] : top) : top;
                }
                float now = std::max(most[i], largest(top));
                for (int p = 0; p < pages; ++p) {
                    Floats e = exponential(s[p] - now);
                    e = seen(base + p * PAGE, last[i]) ? e : Floats{};
                    sum += e;
                    put(weights[i] + p * PAGE, e);
                }
                float shrinkage = base == 0 ? 0.0f : exponential(spread(most[i] - now))[0];
                mass[i] = mass[i] * shrinkage + total(sum);
                if (base != 0 && now != most[i])
                    for (int c = 0; c < d; c += LANES) store(sums[i] + c, load(sums[i] + c) * shrinkage);
                most[i] = now;
            }
            if (base + TOKENS <= end)
                for (int p = 0; p < int(std::min<int64_t>(PAGES_AT_ONCE, (end - base - TOKENS) / PAGE + 1)); ++p)
                    prefetch_page<Bf16>(layer, 0, kv_head, table[PAGES_AT_ONCE + p]);
            for (int c = 0; c < d; c += 2 * LANES) {
                float* out = sums[0] + c;
                if (base == 0) { _tile_zero(0); _tile_zero(1); }
                else { _tile_loadd(0, out, MAX_HEAD_DIM * 4); _tile_loadd(1, out + LANES, MAX_HEAD_DIM * 4); }
                for (int p = 0; p < pages; ++p) {
                    const int32_t* values = reinterpret_cast<const int32_t*>(page_of<Bf16>(layer, 1, kv_head, table[p])) + c;
                    _tile_loadd(6, weights[0] + p * PAGE, TOKENS * 2);
                    _tile_loadd(7, values, d * 4);
                    _tile_loadd(3, values + LANES, d * 4);
                    _tile_dpbf16ps(0, 6, 7);
                    _tile_dpbf16ps(1, 6, 3);
                }
                _tile_stored(0, out, MAX_HEAD_DIM * 4);
                _tile_stored(1, out + LANES, MAX_HEAD_DIM * 4);
            }
        }
        for (int i = 0; i < rows; ++i) {
            Bf16* out = row<Bf16>(MIXED, chunk.row + first + (from + i) / group) + (kv_head * group + (from + i) % group) * d;
            float share = 1.0f / mass[i];
            for (int c = 0; c < d; c += LANES) put(out + c, load(sums[i] + c) * share);
        }
    }
#endif

    template <class T> void prefetch_page(int layer, int half, int kv_head, int64_t page) const {
        const char* at = reinterpret_cast<const char*>(page_of<T>(layer, half, kv_head, page));
        for (size_t i = 0; i < PAGE * shape.head_dim * sizeof(T); i += 64) _mm_prefetch(at + i, _MM_HINT_T0);
    }

    // Two pages at once: one product waits for the one before it in the same sum, so it takes six sums or so to keep the processor busy.
    template <class T, int G, int P>
    void score_pages(int layer, int kv_head, const int32_t* table, const T (&query)[G][MAX_HEAD_DIM], int words, Floats (&scores)[G][PAGES_AT_ONCE], int p) const {
        const int32_t* keys[P];
        for (int i = 0; i < P; ++i) keys[i] = reinterpret_cast<const int32_t*>(page_of<T>(layer, 0, kv_head, table[i]));
        Floats sum[P][G] = {};
        for (int w = 0; w < words; ++w) {
            Words k[P];
            for (int i = 0; i < P; ++i) k[i] = load_words(keys[i] + w * PAGE);
            for (int g = 0; g < G; ++g) {
                Words number = spread(word(query[g], w));
                for (int i = 0; i < P; ++i) sum[i][g] = madd(sum[i][g], k[i], number, T{});
            }
        }
        for (int i = 0; i < P; ++i)
            for (int g = 0; g < G; ++g) scores[g][p + i] = sum[i][g];
    }

    template <class T> static int32_t word(const T* numbers, int index) {
        int32_t bits;
        std::memcpy(&bits, reinterpret_cast<const char*>(numbers) + index * 4, 4);
        return bits;
    }

    static Words seen(int64_t first, int64_t last) {
        const Words lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
        return lane <= int32_t(std::min<int64_t>(last - first, PAGE));
    }

    // --- linears ---

    int64_t rows_of(int place) const { return place == FINAL || place == PICKED ? step.num_picked : step.rows; }

    // Activations to unsigned bytes around 128, one scale per row.
    template <class T> void quantise(const Operation& op, int64_t r) {
        const T* in = row<T>(op.source, r);
        uint8_t* out = reinterpret_cast<uint8_t*>(quantised.data + quantised.stride * r);
        int width = (op.width_in + LANES - 1) / LANES * LANES, padded = (op.width_in + 63) / 64 * 64;
        Floats most = {};
        for (int i = 0; i < width; i += LANES) {
            Floats x = get(in + i);
            x = x < 0 ? -x : x;
            most = x > most ? x : most;
        }
        float top = largest(most), inverse = top > 0 ? 127.0f / top : 0.0f;
        row_scales[r] = std::isfinite(top) ? top / 127.0f : NAN;
        for (int i = 0; i < width; i += LANES) {
            Floats x = get(in + i) * inverse;
            Words q = __builtin_convertvector(x + (x < 0 ? spread(-0.5f) : spread(0.5f)), Words) + 128;
#if defined(__AVX512F__)
            _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), _mm512_cvtepi32_epi8((__m512i)q));
#else
            for (int l = 0; l < LANES; ++l) out[i + l] = uint8_t(q[l]);
#endif
        }
        std::memset(out + width, 128, padded - width);
    }

    // The adapters' first half: shrunk[row][lanes of each part] = A x, for the parts of this linear.
    template <class T> void shrink(const Operation& op, int tid) {
        const int first_part = op.blocks[0].part, last_part = last_part_of(op);
        if (shares_out()) {
            share_out(op, tid, [&](const Segment& segment, int64_t row_first, int64_t rows) {
                int64_t lane = 0;
                for (int part = first_part; part <= last_part; ++part) {
                    const Entry& entry = segment.table[int64_t(op.layer) * PARTS + part];
                    for (int64_t k = 0; k < entry.rank; k += 4) shrink_rows<T>(op, entry, row_first, rows, k, lane);
                    lane += (entry.rank + V<T> - 1) / V<T>;
                }
            });
            return;
        }
        int64_t unit = 0;
        for (int64_t s = 0; s < step.num_segments; ++s) {
            const Segment& segment = step.segments[s];
            int64_t lane = 0;
            for (int part = first_part; part <= last_part; ++part) {
                const Entry& entry = segment.table[int64_t(op.layer) * PARTS + part];
                for (int64_t r = 0; r < segment.count; r += LANES)
                    for (int64_t k = 0; k < entry.rank; k += 4)
                        if (unit++ % shape.threads == tid) shrink_rows<T>(op, entry, segment.first + r, std::min<int64_t>(LANES, segment.count - r), k, lane);
                lane += (entry.rank + V<T> - 1) / V<T>;
            }
        }
    }

    // Few adapters: the threads share each one's ranks. Many: each thread has its own, one stretch of memory after the other.
    bool shares_out() const { return step.num_segments > 2 * shape.threads; }

    // Calls take(segment, first row, rows) for what is this thread's to shrink: what comes next goes to whoever has the least so far. All threads find the same.
    template <class F> void share_out(const Operation& op, int tid, F take) {
        const int first_part = op.blocks[0].part, last_part = last_part_of(op);
        std::vector<int64_t>& load = loads[tid];
        load.assign(shape.threads, 0);
        for (int64_t s = 0; s < step.num_segments; ++s) {
            const Segment& segment = step.segments[s];
            int64_t ranks = 0;
            for (int part = first_part; part <= last_part; ++part) ranks += segment.table[int64_t(op.layer) * PARTS + part].rank;
            for (int64_t r = 0; r < segment.count; r += LANES) {
                int64_t rows = std::min<int64_t>(LANES, segment.count - r);
                auto least = std::min_element(load.begin(), load.end());
                *least += ranks * rows;
                if (least - load.begin() == tid) take(segment, segment.first + r, rows);
            }
        }
    }

    // Of the parts of a layer that are fused in this linear, side by side from its first block's on.
    static int last_part_of(const Operation& op) {
        int last = op.blocks[0].part;
        for (int b = 0; b < 2 * op.num_panels; ++b)
            if (op.blocks[b].present) last = std::max(last, op.blocks[b].part);
        return last;
    }

    // What this thread will read first in the linear after `op`.
    template <class T> void list_shrinks(const Operation& op, int tid) {
        shrinks[tid].clear();
        const Operation& next = linear_after(op);
        if (next.layer < 0 || &next < &op || !shares_out()) return;
        const int first_part = next.blocks[0].part, last_part = last_part_of(next);
        const size_t rank_bytes = size_t(next.width_in + 31) / 32 * 32 * sizeof(T);
        share_out(next, tid, [&](const Segment& segment, int64_t, int64_t) {
            for (int part = first_part; part <= last_part; ++part) {
                const Entry& entry = segment.table[int64_t(next.layer) * PARTS + part];
                shrinks[tid].add(entry.shrink, entry.rank * rank_bytes);
            }
        });
    }

    template <class T> void shrink_rows(const Operation& op, const Entry& entry, int64_t row_first, int64_t rows, int64_t k, int64_t lane) {
        int words = (op.width_in + 31) / 32 * 32 / V<T>;
        const int32_t* a[4];
        int64_t ranks = std::min<int64_t>(4, entry.rank - k);
        for (int64_t i = 0; i < 4; ++i) a[i] = reinterpret_cast<const int32_t*>(entry.shrink) + (k + std::min(i, ranks - 1)) * words;
        for (int64_t r = 0; r < rows; ++r) {
            const int32_t* x = reinterpret_cast<const int32_t*>(places[op.source].data + places[op.source].stride * (row_first + r));
            Floats sum[4] = {};
            for (int w = 0; w < words; w += LANES) {
                Words xs = load_words(x + w);
                if (r == 0)
                    for (int i = 0; i < 4; ++i) _mm_prefetch(reinterpret_cast<const char*>(a[i] + w) + 4 * words * 4, _MM_HINT_T1);
                for (int i = 0; i < 4; ++i) sum[i] = madd(sum[i], load_words(a[i] + w), xs, T{});
            }
            T* out = reinterpret_cast<T*>(shrunk.data + shrunk.stride * (row_first + r) + lane * 4) + k;
            for (int64_t i = 0; i < ranks; ++i) put_one(out + i, total(sum[i]));
            if (k + ranks == entry.rank && entry.rank % V<T>) put_one(out + ranks, 0.0f);  // the odd one out shares a word
        }
    }

    // Each thread has one stretch of a linear's panels, which the processor's prefetcher follows from panel to panel; who is done helps the others.
    int64_t first_panel(const Operation& op, int tid) const { return int64_t(op.num_panels) * tid / shape.threads; }

    // The next panel for this thread to multiply; num_panels when all are taken.
    int64_t claim(const Operation& op, int tid) {
        const size_t at = &op - program.data();
        int from = tid;
        do {
            int64_t panel = first_panel(op, from) + counters[from * program.size() + at].fetch_add(1, std::memory_order_relaxed);
            if (panel < first_panel(op, from + 1)) return panel;
            from = (from + 1) % shape.threads;
        } while (from != tid);
        return op.num_panels;
    }

    template <class T> void linear(const Operation& op, int tid) {
        int64_t rows = rows_of(op.source);
        const Change* changes = step.num_segments && op.layer >= 0 ? find_changes<T>(op, rows, tid) : nullptr;
        alignas(64) float tile[BLOCK_ROWS][PANEL];
        size_t panel_bytes = size_t(op.width_in) * PANEL * (op.quantised ? 1 : sizeof(T));
        // One panel is claimed ahead (after the last, the next linear's first), so that its weights come into the cache in time. Without tile registers
        // they are asked for evenly while this panel is multiplied; with them, few rows ask for them while they are finished, since till then their own
        // panel keeps memory busy, and more rows all along.
        const bool few = HAS_TILES && rows <= LANES, one_pass = rows <= MAX_TILE_ROWS;
        const size_t near = few ? PREFETCH_STEPS * 16 * PANEL * 4 : rows <= SPARSE_ROWS ? SPARSE_BYTES_AHEAD : BYTES_AHEAD;
        bool was_listed = false;
        Shrinks& soon = shrinks[tid];
        const bool looks_ahead = LISTS_LINES && changes && rows > MAX_TILE_ROWS;
        if (looks_ahead) list_shrinks<T>(op, tid);
        const int64_t stretch = std::max<int64_t>(1, first_panel(op, tid + 1) - first_panel(op, tid));
        int64_t done = 0;  // by this thread, this panel among them
        for (int64_t panel = claim(op, tid), after; panel < op.num_panels; panel = after) {
            after = claim(op, tid);
            ++done;
            const char* coming = after < op.num_panels ? static_cast<const char*>(op.weight) + after * panel_bytes : first_of_next(op, tid);
            const char* here = static_cast<const char*>(op.weight) + panel * panel_bytes;
            const char* ahead = few || (one_pass && after == panel + 1) ? here + near : coming;
            size_t share = few ? std::min<size_t>(panel_bytes / 64, LINES_A_ROW * rows) : 0, asked = 0;
            for (int64_t r = 0; r < rows; r += BLOCK_ROWS) {
                int count = int(std::min<int64_t>(BLOCK_ROWS, rows - r));
                Asking asking;
                asking.ahead = ahead;
                asking.lines = r > 0 ? NO_LINES : !one_pass ? ONE_A_PASS : rows > SPARSE_ROWS ? BOTH : EVERY_SECOND;
                if (changes && !(r == 0 && was_listed)) list_expand(op, panel, changes + r * SITE_PARTS, count, asking);
                for (int i = 0; i < asking.count; ++i) _mm_prefetch(asking.listed[i], _MM_HINT_T1);
                asking.count = 0;
                if (r == 0) {
                    was_listed = changes && LISTS_LINES && count > 2 * MAX_TILE_ROWS && after < op.num_panels;
                    if (was_listed) list_expand(op, after, changes, count, asking);
                }
                for (auto& other : asking.other)
                    other = looks_ahead && r == 0 ? soon.take(soon.bytes * done / stretch, panel_bytes / (PANEL * 4)) : nullptr;
                if (op.quantised) multiply_int8(op, panel, r, count, asking, tile);
                else multiply<T>(op, panel, r, count, asking, tile);
                for (int i = int(panel_bytes / (PANEL * 4)); i < asking.count; ++i) _mm_prefetch(asking.listed[i], _MM_HINT_T1);  // more lines than words
                for (size_t until = std::min(share, asked + LINES_A_ROW * count); asked < until; ++asked) _mm_prefetch(coming + asked * 64, _MM_HINT_T1);
                finish<T>(op, panel, r, count, changes ? changes + r * SITE_PARTS : nullptr, tile);
                if (op.target == LOGITS)
                    for (int i = 0; i < count; ++i) follow(leaders[tid][r + i], panel * PANEL, tile[i]);
            }
        }
    }

    // Where this thread will probably begin in the linear that follows (the first again, after the last).
    const char* first_of_next(const Operation& op, int tid) const {
        const Operation& next = linear_after(op);
        return static_cast<const char*>(next.weight) + first_panel(next, tid) * size_t(next.width_in) * PANEL * (next.quantised ? 1 : shape.dtype == 0 ? 4 : 2);
    }

    const Operation& linear_after(const Operation& op) const {
        size_t at = &op - program.data();
        do at = (at + 1) % program.size(); while (program[at].kind != LINEAR);
        return program[at];
    }

    // What each row's adapter does to each part of this linear, looked up once for all panels.
    template <class T> const Change* find_changes(const Operation& op, int64_t rows, int tid) {
        std::vector<Change>& found = changes[tid];
        if (int64_t(found.size()) < rows * SITE_PARTS) found.resize(rows * SITE_PARTS);
        for (int64_t r = 0; r < rows; ++r) {
            const Entry* table = step.tables[r];
            const int32_t* numbers = reinterpret_cast<const int32_t*>(shrunk.data + shrunk.stride * r);
            for (int p = 0; p < SITE_PARTS && op.blocks[0].part + p < PARTS; ++p) {
                Change& change = found[r * SITE_PARTS + p];
                if (!table) { change = Change{}; continue; }
                const Entry& entry = table[int64_t(op.layer) * PARTS + op.blocks[0].part + p];
                int64_t lanes = (entry.rank + V<T> - 1) / V<T>;
                change = {reinterpret_cast<const int32_t*>(entry.expand), numbers, entry.gain, entry.shift, lanes};
                numbers += lanes;
            }
        }
        return found.data();
    }

    // Each row may have an adapter of its own, somewhere else in memory: the lines of its part of the panel.
    static void list_expand(const Operation& op, int64_t panel, const Change* of_rows, int count, Asking& asking) {
        for (int h = 0; h < 2; ++h) {
            const Block& block = op.blocks[2 * panel + h];
            const int32_t* seen = nullptr;
            for (int i = 0; i < count; ++i) {
                const Change& change = of_rows[i * SITE_PARTS + block.part - op.blocks[0].part];
                if (change.expand == seen) continue;
                seen = change.expand;
                const int32_t* at = seen + block.index * change.lanes * LANES;
                for (int64_t k = 0; k < std::min<int64_t>(change.lanes, LANES); ++k) asking.listed[asking.count++] = reinterpret_cast<const char*>(at + k * LANES);
            }
        }
    }

    template <class T> void multiply(const Operation& op, int64_t panel, int64_t r, int rows, const Asking& asking, float (&tile)[BLOCK_ROWS][PANEL]) {
        const char* x = places[op.source].data + places[op.source].stride * r;
        size_t stride = places[op.source].stride;
        constexpr int step_words = sizeof(T) == 2 ? 16 : 1;
        int words = (op.width_in + V<T> * step_words - 1) / (V<T> * step_words) * step_words;
        const int32_t* w = static_cast<const int32_t*>(op.weight) + panel * words * PANEL;
#if defined(__AMX_BF16__)
        if constexpr (sizeof(T) == 2) {
            tiles_bf16(x, stride, rows, w, words / 16, asking.ahead, tile, tile);
            return;
        }
#endif
        multiply_rows<T, MAX_TILE_ROWS>(x, stride, rows, w, words, tile[0], asking);
    }

    // What a pass asks for with each word: where it begins, how many bytes further with each word, and how far off it asks once more. What is asked for
    // again is there already and costs next to nothing.
    struct Asked { const char* at; size_t onward; ptrdiff_t apart; };
    static Asked asked_in(int pass, const Asking& asking, int words, const char* x) {
        if (asking.lines >= EVERY_SECOND) return {asking.ahead, 128, asking.lines == BOTH ? 64 : 0};
        if (asking.lines == NO_LINES || pass > 1) return {x, 0, 0};
        const char *at = asking.ahead + pass * size_t(words) * 64, *other = asking.other[pass];
        return {at, 64, other ? other - at : 0};
    }

    static void ask_twice(const char* at, ptrdiff_t apart) {
        _mm_prefetch(at, _MM_HINT_T1);
        _mm_prefetch(at + apart, _MM_HINT_T1);
    }

    template <class T, int R, bool LISTED = false>
    static void multiply_rows(const char* x, size_t stride, int rows, const int32_t* w, int words, float* out, const Asking& asking, int pass = 0) {
        for (; rows >= R; rows -= R, x += stride * R, out += PANEL * R, ++pass) {
            const auto [asked, onward, apart] = asked_in(pass, asking, words, x);
            Rows<R> row(x, stride);
            // Sums of sums: one long chain of float32 additions would lose digits.
            for (int from = 0; from < words; from += CHAIN_WORDS) {
                Floats sum[R][2] = {};
                const int end = std::min(words, from + CHAIN_WORDS);
#pragma GCC unroll 4
                for (int k = from; k < end; ++k) {
                    if (LISTED) _mm_prefetch(asking.listed[std::min(k, asking.count - 1)], _MM_HINT_T1);
                    else ask_twice(asked + k * onward, apart);
                    Words left = load_words(w + k * PANEL), right = load_words(w + k * PANEL + LANES);
#pragma GCC unroll 12
                    for (int i = 0; i < R; ++i) {
                        Words number = spread(word(row[i], k));
                        sum[i][0] = madd(sum[i][0], left, number, T{});
                        sum[i][1] = madd(sum[i][1], right, number, T{});
                    }
                }
                for (int i = 0; i < R; ++i)
                    for (int h = 0; h < 2; ++h) {
                        float* at = out + i * PANEL + h * LANES;
                        store(at, from ? load(at) + sum[i][h] : sum[i][h]);
                    }
            }
        }
        if constexpr (R > 1) {
            constexpr int FEWER = R > 8 ? 8 : R > 4 ? 4 : R > 2 ? 2 : 1;
            if (rows == 0) return;
            if (LISTED || (pass > 1 && asking.count > 0)) multiply_rows<T, FEWER, true>(x, stride, rows, w, words, out, asking, pass);
            else multiply_rows<T, FEWER>(x, stride, rows, w, words, out, asking, pass);
        }
    }

    void multiply_int8(const Operation& op, int64_t panel, int64_t r, int rows, const Asking& asking, float (&tile)[BLOCK_ROWS][PANEL]) {
        const char* x = quantised.data + quantised.stride * r;
        int words = (op.width_in + 63) / 64 * 16;
        const int32_t* w = static_cast<const int32_t*>(op.weight) + panel * words * PANEL;
        alignas(64) int32_t sums[BLOCK_ROWS][PANEL];
#if defined(__AMX_INT8__)
        tiles_int8(x, quantised.stride, rows, w, words / 16, asking.ahead, sums, sums);
#else
        multiply_int8_rows<MAX_TILE_ROWS>(x, quantised.stride, rows, w, words, sums[0], asking);
#endif
        scale_int8(op, panel, r, rows, sums, tile);
    }

    void scale_int8(const Operation& op, int64_t panel, int64_t r, int rows, const int32_t (&sums)[BLOCK_ROWS][PANEL], float (&tile)[BLOCK_ROWS][PANEL]) {
        for (int i = 0; i < rows; ++i)
            for (int h = 0; h < 2; ++h) {
                int64_t column = panel * PANEL + h * LANES;
                Words exact = load_words(sums[i] + h * LANES) - load_words(op.offset + column);
                store(tile[i] + h * LANES, __builtin_convertvector(exact, Floats) * (load(op.scale + column) * row_scales[r + i]));
            }
    }

    template <int R, bool LISTED = false>
    static void multiply_int8_rows(const char* x, size_t stride, int rows, const int32_t* w, int words, int32_t* out, const Asking& asking, int pass = 0) {
        for (; rows >= R; rows -= R, x += stride * R, out += PANEL * R, ++pass) {
            const auto [asked, onward, apart] = asked_in(pass, asking, words, x);
            Rows<R> row(x, stride);
            Words sum[R][2] = {};
#pragma GCC unroll 4
            for (int k = 0; k < words; ++k) {
                if (LISTED) _mm_prefetch(asking.listed[std::min(k, asking.count - 1)], _MM_HINT_T1);
                else ask_twice(asked + k * onward, apart);
                Words left = load_words(w + k * PANEL), right = load_words(w + k * PANEL + LANES);
#pragma GCC unroll 12
                for (int i = 0; i < R; ++i) {
                    Words number = spread(word(row[i], k));
                    sum[i][0] = madd(sum[i][0], left, number);
                    sum[i][1] = madd(sum[i][1], right, number);
                }
            }
            for (int i = 0; i < R; ++i)
                for (int h = 0; h < 2; ++h) *reinterpret_cast<LooseWords*>(out + i * PANEL + h * LANES) = sum[i][h];
        }
        if constexpr (R > 1) {
            constexpr int FEWER = R > 8 ? 8 : R > 4 ? 4 : R > 2 ? 2 : 1;
            if (rows == 0) return;
            if (LISTED || (pass > 1 && asking.count > 0)) multiply_int8_rows<FEWER, true>(x, stride, rows, w, words, out, asking, pass);
            else multiply_int8_rows<FEWER>(x, stride, rows, w, words, out, asking, pass);
        }
    }

#if defined(__AMX_BF16__)
    // 32 rows by 32 columns in eight tile registers; always whole tiles, so that a row's bits do not depend on how many rows there are.
    // FRESH: start from zero, else from `in`; AHEAD: the weights come from far, so ask for them in time.
#define LORIKEET_TILES(PRODUCT)                                                                       \
    if (FRESH) { _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3); }                        \
    else {                                                                                            \
        _tile_loadd(0, in[0], PANEL * 4); _tile_loadd(1, in[0] + LANES, PANEL * 4);                   \
        if (rows > 16) { _tile_loadd(2, in[16], PANEL * 4); _tile_loadd(3, in[16] + LANES, PANEL * 4); } \
    }                                                                                                 \
    for (int k = 0; k < steps; ++k, w += 16 * PANEL, x += 64) {                                       \
        if (AHEAD) prefetch<32>(ahead + k * 16 * PANEL * 4);                                              \
        else for (int i = 0; i < 32; ++i) _mm_prefetch(x + i * stride + 128, _MM_HINT_T0);            \
        _tile_loadd(6, w, PANEL * 4);                                                                 \
        _tile_loadd(7, w + LANES, PANEL * 4);                                                         \
        _tile_loadd(4, x, stride);                                                                    \
        PRODUCT(0, 4, 6); PRODUCT(1, 4, 7);                                                           \
        if (rows > 16) {                                                                              \
            _tile_loadd(5, x + 16 * stride, stride);                                                  \
            PRODUCT(2, 5, 6); PRODUCT(3, 5, 7);                                                       \
        }                                                                                             \
    }                                                                                                 \
    _tile_stored(0, out[0], PANEL * 4); _tile_stored(1, out[0] + LANES, PANEL * 4);                   \
    if (rows > 16) { _tile_stored(2, out[16], PANEL * 4); _tile_stored(3, out[16] + LANES, PANEL * 4); }

    template <bool FRESH = true, bool AHEAD = true>
    static void tiles_bf16(const char* x, size_t stride, int rows, const int32_t* w, int steps, const char* ahead,
                           const float (&in)[BLOCK_ROWS][PANEL], float (&out)[BLOCK_ROWS][PANEL]) {
        LORIKEET_TILES(_tile_dpbf16ps)
    }
    template <bool FRESH = true, bool AHEAD = true>
    static void tiles_int8(const char* x, size_t stride, int rows, const int32_t* w, int steps, const char* ahead,
                           const int32_t (&in)[BLOCK_ROWS][PANEL], int32_t (&out)[BLOCK_ROWS][PANEL]) {
        LORIKEET_TILES(_tile_dpbusd)
    }
#undef LORIKEET_TILES

    // More rows than one block: a stretch of the panel's weights stays in the first-level cache while all rows pass over it. Sums wait in memory
    // between stretches, exact to the bit, so a row's result is that of `linear`.
    template <class T> void linear_tall(const Operation& op, int tid) {
        int64_t rows = rows_of(op.source);
        const Change* changes = step.num_segments && op.layer >= 0 ? find_changes<T>(op, rows, tid) : nullptr;
        const Buffer& in = op.quantised ? quantised : places[op.source];
        int steps = op.quantised ? (op.width_in + 63) / 64 : (op.width_in + 31) / 32;
        tall[tid].reserve((rows + BLOCK_ROWS - 1) / BLOCK_ROWS, sizeof(float) * BLOCK_ROWS * PANEL, 0);
        alignas(64) float tile[BLOCK_ROWS][PANEL];
        alignas(64) int32_t whole[BLOCK_ROWS][PANEL];
        for (int64_t panel; (panel = claim(op, tid)) < op.num_panels;) {
            const int32_t* w = static_cast<const int32_t*>(op.weight) + panel * steps * 16 * PANEL;
            for (int from = 0; from < steps; from += TALL_STEPS)
                for (int64_t r = 0; r < rows; r += BLOCK_ROWS) {
                    int count = int(std::min<int64_t>(BLOCK_ROWS, rows - r));
                    const char* x = in.data + in.stride * r + from * 64;
                    void* sums = tall[tid].data + tall[tid].stride * (r / BLOCK_ROWS);
                    bool is_last = from + TALL_STEPS >= steps;
                    int taken = is_last ? steps - from : TALL_STEPS;
                    if (op.quantised) {
                        auto& so_far = *static_cast<int32_t(*)[BLOCK_ROWS][PANEL]>(sums);
                        add_int8(x, in.stride, count, w + from * 16 * PANEL, taken, from == 0, r == 0, so_far, is_last ? whole : so_far);
                    } else {
                        auto& so_far = *static_cast<float(*)[BLOCK_ROWS][PANEL]>(sums);
                        add_bf16(x, in.stride, count, w + from * 16 * PANEL, taken, from == 0, r == 0, so_far, is_last ? tile : so_far);
                    }
                    if (!is_last) continue;
                    if (op.quantised) scale_int8(op, panel, r, count, whole, tile);
                    finish<T>(op, panel, r, count, changes ? changes + r * SITE_PARTS : nullptr, tile);
                    if (op.target == LOGITS)
                        for (int i = 0; i < count; ++i) follow(leaders[tid][r + i], panel * PANEL, tile[i]);
                }
        }
    }

#define LORIKEET_ADD(NAME, TILES, NUMBER)                                                                          \
    static void NAME(const char* x, size_t stride, int rows, const int32_t* w, int steps, bool fresh, bool ahead,  \
                     const NUMBER (&in)[BLOCK_ROWS][PANEL], NUMBER (&out)[BLOCK_ROWS][PANEL]) {                    \
        const char* after = reinterpret_cast<const char*>(w + steps * 16 * PANEL);                                 \
        if (fresh && ahead) TILES<true, true>(x, stride, rows, w, steps, after, in, out);                          \
        else if (fresh) TILES<true, false>(x, stride, rows, w, steps, after, in, out);                             \
        else if (ahead) TILES<false, true>(x, stride, rows, w, steps, after, in, out);                             \
        else TILES<false, false>(x, stride, rows, w, steps, after, in, out);                                       \
    }
    LORIKEET_ADD(add_bf16, tiles_bf16, float)
    LORIKEET_ADD(add_int8, tiles_int8, int32_t)
#undef LORIKEET_ADD
#endif

    // The base's product of some rows and 32 columns → gain, bias, shift, the adapters' second half, and where it goes.
    template <class T> void finish(const Operation& op, int64_t panel, int64_t first, int rows, const Change* of_rows, float (&tile)[BLOCK_ROWS][PANEL]) {
        const Block* blocks = op.blocks + 2 * panel;
        if (of_rows) {
            for (int i = 0; i < rows; ++i)
                for (int h = 0; h < 2; ++h) store(tile[i] + h * LANES, adapt<T>(op, of_rows + i * SITE_PARTS, 2 * panel + h, load(tile[i] + h * LANES)));
        } else if (op.second) {
            Floats left = load(op.second + panel * PANEL), right = load(op.second + panel * PANEL + LANES);
            for (int i = 0; i < rows; ++i) {
                store(tile[i], load(tile[i]) + left);
                store(tile[i] + LANES, load(tile[i] + LANES) + right);
            }
        }
        if (op.ending == SWIGLU) {
            T* out = row<T>(op.target, first) + blocks[0].column;
            size_t stride = places[op.target].stride / sizeof(T);
            for (int i = 0; i < rows; ++i, out += stride) {
                Floats gate = load(tile[i]);
                put(out, gate / (1.0f + exponential(-gate)) * load(tile[i] + LANES));
            }
            return;
        }
        float* out = op.target == LOGITS ? step.logits + first * shape.widths[LOGITS] : row<float>(op.target, first);
        size_t stride = op.target == LOGITS ? shape.widths[LOGITS] : places[op.target].stride / sizeof(float);
        for (int h = 0; h < 2; ++h) {
            if (!blocks[h].present) continue;
            float* at = out + blocks[h].column;
            if (op.ending == ADD)
                for (int i = 0; i < rows; ++i, at += stride) store(at, load(at) + load(tile[i] + h * LANES));
            else
                for (int i = 0; i < rows; ++i, at += stride) store(at, load(tile[i] + h * LANES));
        }
    }

    void follow(Leaders& row, int64_t first, const float* logits) const {
        const Words lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
        for (int h = 0; h < 2; ++h) {
            Words id = lane + int32_t(first + h * LANES);
            Floats x = load(logits + h * LANES);
            row.sum += x * 0.0f;
            x = id < shape.vocab ? x : spread(-INFINITY);
            Words more = x > row.highest;
            row.highest = more ? x : row.highest;
            row.where = more ? id : row.where;
        }
    }

    void name_leaders() const {
        for (int64_t r = 0; r < step.num_picked; ++r) {
            float highest = -INFINITY, sum = 0;
            int64_t best = 0;
            for (const auto& seen : leaders)
                for (int l = 0; l < LANES; ++l) {
                    float x = seen[r].highest[l];
                    int64_t id = seen[r].where[l];
                    if (x > highest || (x == highest && id < best)) { highest = x; best = id; }
                    sum += seen[r].sum[l];
                }
            step.best[r] = best;
            step.finite[r] = std::isfinite(sum);
        }
    }

    template <class T> static Floats adapt(const Operation& op, const Change* of_row, int64_t number, Floats sum) {
        const Block& block = op.blocks[number];
        const Change& change = of_row[block.part - op.blocks[0].part];
        if (!block.present) return sum;
        if (change.gain) sum *= load(change.gain + block.index * LANES);
        if (op.second) sum += load(op.second + number * LANES);
        if (change.shift) sum += load(change.shift + block.index * LANES);
        const int32_t* expand = change.expand + block.index * change.lanes * LANES;
        for (int64_t k = 0; k < change.lanes; ++k) sum = madd(sum, load_words(expand + k * LANES), spread(change.numbers[k]), T{});
        return sum;
    }

    void pick(int64_t r) { std::memcpy(row<float>(PICKED, r), row<float>(HIDDEN, step.picked[r]), shape.hidden * 4); }

    // --- the step ---

    static bool by_rows(int kind) { return kind != LINEAR && kind != ATTEND; }

    template <class T> void run_program(int tid) {
#if defined(__AMX_BF16__)
        configure_tiles(32);
#endif
        for (size_t i = 0; i < program.size(); ++i) {
            const Operation& op = program[i];
            if (by_rows(op.kind)) {
                bool few = op.kind == PICK || op.source == PICKED;
                for (int64_t r = tid, rows = few ? step.num_picked : step.rows; r < rows; r += shape.threads) run_row<T>(op, r);
                // The same thread has the same rows in the next operation, unless that picks others or splits by columns.
                if (i + 1 < program.size() && by_rows(program[i + 1].kind) && program[i + 1].kind != PICK) continue;
            } else if (op.kind == ATTEND) {
#if defined(__AMX_BF16__)
                configure_tiles(PAGE);
                attend<T>(op, counters[i]);
                configure_tiles(32);
#else
                attend<T>(op, counters[i]);
#endif
            } else {
                run_linear<T>(op, tid);
            }
            barrier.wait(shape.threads);
        }
#if defined(__AMX_BF16__)
        _tile_release();
#endif
    }

    template <class T> void run_row(const Operation& op, int64_t r) {
        switch (op.kind) {
            case EMBED: return embed<T>(op, r);
            case NORM: return norm<T>(op, r);
            case NORM_HEADS: return norm_heads(op, r);
            case ROTATE: return rotate(r);
            case STORE: return store_kv<T>(op, r);
            default: return pick(r);
        }
    }

    template <class T> void run_linear(const Operation& op, int tid) {
        bool adapted = step.num_segments && op.layer >= 0;
        if (op.quantised)
            for (int64_t r = tid, rows = rows_of(op.source); r < rows; r += shape.threads) quantise<T>(op, r);
        if (adapted) shrink<T>(op, tid);
        if (op.quantised || adapted) barrier.wait(shape.threads);
#if defined(__AMX_BF16__)
        if (rows_of(op.source) > BLOCK_ROWS && (op.quantised || sizeof(T) == 2)) return linear_tall<T>(op, tid);
#endif
        linear<T>(op, tid);
    }

    void run_thread(int tid) {
        if (draws.count) draw_all(tid);
        else if (shape.dtype == 0) run_program<float>(tid);
        else run_program<Bf16>(tid);
    }

    void draw_all(int tid) {
        for (int64_t i; (i = counters.back().fetch_add(1, std::memory_order_relaxed)) < draws.count;)
            drawers[tid].draw(draws.logits + draws.first[i].row * draws.stride, shape.vocab, draws.first[i]);
        barrier.wait(shape.threads);
    }

    int draw(const Draws& next) {
        try {
            if (next.count == 1) {
                drawers[0].draw(next.logits + next.first->row * next.stride, shape.vocab, *next.first);
                return 0;
            }
            for (auto& drawer : drawers) drawer.reserve(shape.vocab);
        } catch (const std::bad_alloc&) {
            return 1;
        }
        draws = next;
        in_parallel();
        draws.count = 0;
        return 0;
    }

    void in_parallel() {
        for (auto& counter : counters) counter.store(0, std::memory_order_relaxed);
        if (shape.threads > 1) {
            epoch.fetch_add(1, std::memory_order_release);
            syscall(SYS_futex, reinterpret_cast<int*>(&epoch), FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
        }
        run_thread(0);
    }

    int run(const Step& next) {
        step = next;
        try {
            if (shape.dtype == 0) reserve<float>();
            else reserve<Bf16>();
        } catch (const std::bad_alloc&) {
            return 1;
        }
        in_parallel();
        size_t bytes = shape.hidden * (shape.dtype == 0 ? 4 : 2);
        for (int64_t r = 0; r < step.num_picked; ++r) std::memcpy(step.final + r * bytes, places[FINAL].data + places[FINAL].stride * r, bytes);
        name_leaders();
        return 0;
    }

    void work(int tid) {
        for (int seen = 0;;) {
            for (int spins = 0; epoch.load(std::memory_order_acquire) == seen; ++spins) {
                if (spins < SPINS_BEFORE_SLEEP) _mm_pause();
                else syscall(SYS_futex, reinterpret_cast<int*>(&epoch), FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
            }
            ++seen;
            if (ending.load(std::memory_order_acquire)) return;
            run_thread(tid);
        }
    }

#if defined(__AMX_BF16__)
    // 16 rows of 16 words; for products over a page of tokens, a tile of weights (6) is that much narrower and its values (3, 7) that much shorter.
    static void configure_tiles(int tokens) {
        struct alignas(64) { uint8_t palette = 1, start = 0, reserved[14] = {}; uint16_t bytes[16] = {}; uint8_t rows[16] = {}; } config;
        for (int i = 0; i < 8; ++i) { config.bytes[i] = 64; config.rows[i] = 16; }
        config.bytes[6] = uint16_t(2 * tokens);
        config.rows[3] = config.rows[7] = uint8_t(tokens / 2);
        _tile_loadconfig(&config);
    }
#endif
};

struct Start { Executor* executor; int tid; };

void* begin(void* argument) {
    Start start = *static_cast<Start*>(argument);
    delete static_cast<Start*>(argument);
    start.executor->work(start.tid);
    return nullptr;
}

}  // namespace

extern "C" {

// Null when the kernel does not grant this process the tile registers.
void* lorikeet_create(const Shape* shape, const Operation* operations, int count) {
#if defined(__AMX_BF16__)
    constexpr int ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;
    if (syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) != 0) return nullptr;
#endif
    Executor* executor = new Executor(*shape, operations, count);
    for (int tid = 1; tid < shape->threads; ++tid) {
        pthread_t thread;
        if (pthread_create(&thread, nullptr, begin, new Start{executor, tid}) != 0) std::abort();
        executor->workers.push_back(thread);
    }
    return executor;
}

// 0, or 1 when there is no memory for this many rows.
int lorikeet_run(void* executor, const Step* step) { return static_cast<Executor*>(executor)->run(*step); }

// Fills in each draw's winner and margin. 0, or 1 when there is no memory.
int lorikeet_draw(void* executor, Draw* draws, int64_t count, const float* logits, int64_t stride) {
    return static_cast<Executor*>(executor)->draw({draws, count, logits, stride});
}

void lorikeet_destroy(void* handle) {
    Executor* executor = static_cast<Executor*>(handle);
    executor->ending.store(true, std::memory_order_release);
    executor->epoch.fetch_add(1, std::memory_order_release);
    syscall(SYS_futex, reinterpret_cast<int*>(&executor->epoch), FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
    for (pthread_t worker : executor->workers) pthread_join(worker, nullptr);
    delete executor;
}
}

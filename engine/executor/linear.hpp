// A linear: its source times the packed weights, what adapters add to it, and where it goes.
// Decides which panels are multiplied how, and how far ahead memory is asked for. Knows no
// attention and no order of operations.
//
// Decoding is bound by memory: every weight is read once a step. So what counts is that reading
// never pauses, and the code that multiplies is built around what is asked for next.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "adapters.hpp"
#include "code_tiles.hpp"
#include "codes.hpp"
#include "leaders.hpp"
#include "products.hpp"
#include "program.hpp"
#include "space.hpp"
#include "threads.hpp"
#include "tiles.hpp"
#include "words.hpp"

namespace {

// How far beyond the weights that it multiplies a thread asks for more.
constexpr int SPARSE_ROWS = 4;
constexpr size_t SPARSE_BYTES_AHEAD = 4 << 10;           // with no more rows than those
constexpr size_t BYTES_AHEAD = 24 << 10;                 // with more
constexpr size_t TILE_BYTES_AHEAD = 4 * 16 * PANEL * 4;  // with tile registers: four steps
constexpr int FEW_ROWS = 4;  // beside weights in 4 bits: multiplied by vectors
constexpr size_t LINES_A_ROW = 16;                       // while tiles' rows are finished

// Steps of 64 bytes in a stretch of a tall linear: 16 KiB of weights and as much of a block of rows
// fit into a first-level cache of 48.
constexpr int TALL_STEPS = 8;

// Single lines have passes of their own only where a block of rows makes a third pass by vectors.
constexpr bool LISTS_LINES = !HAS_TILES && PASS_ROWS == 12;

// A thread's own, kept from step to step.
struct LinearWork {
    AdapterWork adapters;
    std::vector<Leaders> leaders;  // of each picked row
    Buffer sums;                   // of each block of rows, between two stretches of a tall linear
};

// --- int8: activations to bytes, and sums back ---

// Row r of the source to unsigned bytes around 128, with one scale. What is not finite makes the
// whole row NaN, which the leaders find.
template <class T>
void quantise(Space& space, const Operation& op, int64_t r) {
    const T* in = space.row<T>(op.source, r);
    auto* out = reinterpret_cast<uint8_t*>(space.quantised.row(r));
    const int width = (op.width_in + LANES - 1) / LANES * LANES;
    const int padded = (op.width_in + 63) / 64 * 64;
    Floats most = {};
    Floats finite = {};  // of zeros, or NaN
    for (int i = 0; i < width; i += LANES) {
        Floats x = get(in + i);
        finite += x * 0.0f;
        x = x < 0 ? -x : x;
        most = x > most ? x : most;
    }
    const float top = largest(most);
    const float inverse = top > 0 ? 127.0f / top : 0.0f;
    space.row_scales[r] = top / 127.0f + total(finite);
    for (int i = 0; i < width; i += LANES) {
        const Floats x = get(in + i) * inverse;
        const Floats half = x < 0 ? spread(-0.5f) : spread(0.5f);
        put_bytes(out + i, __builtin_convertvector(x + half, Words) + 128);
    }
    std::memset(out + width, 128, padded - width);
}

inline void scale_int8(const Space& space, const Operation& op, int64_t panel, int64_t r, int rows,
                       const int32_t (&sums)[BLOCK_ROWS][PANEL],
                       float (&tile)[BLOCK_ROWS][PANEL]) {
    for (int i = 0; i < rows; ++i)
        for (int h = 0; h < 2; ++h) {
            const int64_t column = panel * PANEL + h * LANES;
            const Words exact = load_words(sums[i] + h * LANES) - load_words(op.offset + column);
            const Floats scale = load(op.scale + column) * space.row_scales[r + i];
            store(tile[i] + h * LANES, __builtin_convertvector(exact, Floats) * scale);
        }
}

// --- one panel ---

template <class T>
size_t panel_bytes_of(const Operation& op) {
    if (op.format == CODES) return Codes(op).panel_bytes;
    return size_t(op.width_in) * PANEL * (op.format == INT8 ? 1 : sizeof(T));
}

// Where this thread will probably begin in the linear that follows.
template <class T>
const char* first_of_next(const Space& space, const Operation& op, int tid) {
    const Operation& next = space.linear_after(op);
    return static_cast<const char*>(next.weight) +
           begin_of_stretch(next.num_panels, tid, space.shape.threads) * panel_bytes_of<T>(next);
}

// Words of a row of T, in whole steps of 64 bytes, as tiles take them; float32 has no tiles and no
// padding.
template <class T>
int words_of(const Operation& op) {
    constexpr int STEP_WORDS = sizeof(T) == 4 ? 1 : 16;
    return (op.width_in + V<T> * STEP_WORDS - 1) / (V<T> * STEP_WORDS) * STEP_WORDS;
}

template <class T>
const Buffer& source_of(const Space& space, const Operation& op) {
    return std::is_same_v<T, Int8> ? space.quantised : space.places[op.source];
}

// By itself, so that the innermost loops have all registers: what surrounds it takes some of them
// otherwise, and has the loops compiled several times over.
template <class T>
__attribute__((noinline)) void multiply_sums(const Space& space, const Operation& op,
                                             int64_t panel, int64_t r, int rows,
                                             const Asking& asking,
                                             Sum<T> (&out)[BLOCK_ROWS][PANEL]) {
    const Buffer& in = source_of<T>(space, op);
    const int words = words_of<T>(op);
    const int32_t* w = static_cast<const int32_t*>(op.weight) + panel * words * PANEL;
#if defined(__AMX_BF16__)
    if constexpr (sizeof(T) < 4) {
        multiply_tiles<T, true, true>(in.row(r), in.stride, rows, w, words / 16, asking.ahead, out,
                                      out);
        return;
    }
#endif
    multiply_rows<T, PASS_ROWS>(in.row(r), in.stride, rows, w, words, out[0], asking);
}

// Up to 32 rows from r on by one panel, in float32.
template <class T>
void multiply(const Space& space, const Operation& op, int64_t panel, int64_t r, int rows,
              const Asking& asking, float (&tile)[BLOCK_ROWS][PANEL]) {
    if (op.format != INT8) return multiply_sums<T>(space, op, panel, r, rows, asking, tile);
    alignas(64) int32_t sums[BLOCK_ROWS][PANEL];
    multiply_sums<Int8>(space, op, panel, r, rows, asking, sums);
    scale_int8(space, op, panel, r, rows, sums, tile);
}

// Gain, bias, shift and the adapters' second half.
template <class T>
void adapt_tile(const Operation& op, int64_t panel, int rows, const Change* of_rows,
                float (&tile)[BLOCK_ROWS][PANEL]) {
    if (of_rows) {
        for (int i = 0; i < rows; ++i)
            for (int h = 0; h < 2; ++h) {
                float* at = tile[i] + h * LANES;
                store(at, adapt<T>(op, of_rows + i * SITE_PARTS, 2 * panel + h, load(at)));
            }
    } else if (op.second) {
        const Floats left = load(op.second + panel * PANEL);
        const Floats right = load(op.second + panel * PANEL + LANES);
        for (int i = 0; i < rows; ++i) {
            store(tile[i], load(tile[i]) + left);
            store(tile[i] + LANES, load(tile[i] + LANES) + right);
        }
    }
}

inline Floats gated(int32_t ending, Floats gate) {
    if (ending == SWIGLU) return gate / (1.0f + exponential(-gate));
    // GELU by way of a tanh: (1 + tanh u) / 2 is 1 / (1 + e^-2u).
    const Floats twice = 1.59576912160573071f * (gate + 0.044715f * gate * gate * gate);
    return gate / (1.0f + exponential(-twice));
}

// Of gate and up, both kept within a limit; what is no number stays none.
inline Floats clamped(const Operation& op, Floats gate, Floats up) {
    gate = gate > op.cap ? spread(op.cap) : gate;
    up = up > op.cap ? spread(op.cap) : up;
    up = up < -op.cap ? spread(-op.cap) : up;
    return (up + 1.0f) * (gate / (1.0f + exponential(-op.factor * gate)));
}

// Blocks of gate and up alternate, so that both halves of a panel are of the same 16 columns.
template <class T>
void write_folded(const Space& space, const Operation& op, int64_t panel, int64_t first, int rows,
                  const float (&tile)[BLOCK_ROWS][PANEL]) {
    T* out = space.row<T>(op.target, first) + op.blocks[2 * panel].column;
    const size_t stride = space.places[op.target].stride / sizeof(T);
    if (op.ending == CLAMPED) {
        for (int i = 0; i < rows; ++i, out += stride)
            put(out, clamped(op, load(tile[i]), load(tile[i] + LANES)));
        return;
    }
    for (int i = 0; i < rows; ++i, out += stride)
        put(out, gated(op.ending, load(tile[i])) * load(tile[i] + LANES));
}

inline void write_floats(const Space& space, const Operation& op, int64_t panel, int64_t first,
                         int rows, const float (&tile)[BLOCK_ROWS][PANEL]) {
    const bool is_last = op.target == LOGITS;
    const size_t width = space.shape.widths[LOGITS];
    float* out = is_last ? space.step.logits + first * width : space.row<float>(op.target, first);
    const size_t stride = is_last ? width : space.places[op.target].stride / sizeof(float);
    for (int h = 0; h < 2; ++h) {
        const Block& block = op.blocks[2 * panel + h];
        if (!block.present) continue;
        float* at = out + block.column;
        if (op.ending == ADD)
            for (int i = 0; i < rows; ++i, at += stride)
                store(at, load(at) + load(tile[i] + h * LANES));
        else
            for (int i = 0; i < rows; ++i, at += stride) store(at, load(tile[i] + h * LANES));
    }
}

// The base's product of some rows and 32 columns → where it goes.
template <class T>
void finish(const Space& space, const Operation& op, int64_t panel, int64_t first, int rows,
            const Change* changes, float (&tile)[BLOCK_ROWS][PANEL], LinearWork& own) {
    adapt_tile<T>(op, panel, rows, changes ? changes + first * SITE_PARTS : nullptr, tile);
    if (op.ending >= SWIGLU)
        write_folded<T>(space, op, panel, first, rows, tile);
    else write_floats(space, op, panel, first, rows, tile);
    if (op.target == LOGITS)
        for (int i = 0; i < rows; ++i)
            follow(own.leaders[first + i], panel * PANEL, tile[i], space.shape.vocab);
}

// --- what is asked for ahead ---

// At once: they are needed as soon as this product is there.
inline void ask_for_expand(const Operation& op, int64_t panel, const Change* of_rows, int count) {
    Asking asking;
    list_expand(op, panel, of_rows, count, asking);
    for (int i = 0; i < asking.count; ++i) prefetch(asking.listed[i]);
}

// What one thread asks for ahead while it multiplies the panels of one linear. A panel is
// claimed ahead (after the last, the next linear's first), so that its weights come in meanwhile.
//
// Without tile registers they are asked for evenly while this panel is multiplied. With them few
// rows ask for them while they are finished, since till then their own panel keeps memory busy, and
// more rows all along.
template <class T>
struct Lookahead {
    const Space& space;
    const Operation& op;
    const int tid;
    const int64_t rows;
    const Change* const changes;
    Shrinks& soon;  // what this thread reads first in the next linear

    const size_t panel_bytes = panel_bytes_of<T>(op);
    const int panel_words = int(panel_bytes / (PANEL * 4));
    const bool few = HAS_TILES && rows <= LANES;
    const bool one_pass = rows <= PASS_ROWS;
    const bool looks_beyond = LISTS_LINES && changes && rows > PASS_ROWS;
    const size_t near = few                   ? TILE_BYTES_AHEAD
                        : rows <= SPARSE_ROWS ? SPARSE_BYTES_AHEAD
                                              : BYTES_AHEAD;
    const int64_t stretch = std::max<int64_t>(1, first_panel(op, tid + 1) - first_panel(op, tid));

    int64_t done = 0;              // panels by this thread, the present one among them
    int64_t panel = 0;             // the present one
    int64_t after = 0;             // the one claimed ahead; num_panels: there is none
    const char* coming = nullptr;  // its weights, or the next linear's first
    size_t finishing = 0;          // lines of them that were asked for while rows were finished
    bool was_listed = false;       // this panel's adapters, while the last one was multiplied

    int64_t first_panel(const Operation& of, int thread) const {
        return begin_of_stretch(of.num_panels, thread, space.shape.threads);
    }

    const char* weights_of(int64_t number) const {
        return static_cast<const char*>(op.weight) + number * panel_bytes;
    }

    void turn_to(int64_t present, int64_t next) {
        panel = present;
        after = next;
        coming = after < op.num_panels ? weights_of(after) : first_of_next<T>(space, op, tid);
        finishing = 0;
        ++done;
    }

    // What to ask for while `count` rows from r on are multiplied.
    void before(int64_t r, int count, Asking& asking) {
        const bool follows = one_pass && after == panel + 1;
        asking.ahead = few || follows ? weights_of(panel) + near : coming;
        asking.lines = r > 0                ? NO_LINES
                       : !one_pass          ? ONE_A_PASS
                       : rows > SPARSE_ROWS ? BOTH
                                            : EVERY_SECOND;
        if (changes && !(r == 0 && was_listed))
            ask_for_expand(op, panel, changes + r * SITE_PARTS, count);
        if (r == 0) list_next_expand(count, asking);
        for (auto& other : asking.other)
            other = looks_beyond && r == 0 ? soon.take(soon.bytes * done / stretch, panel_words)
                                           : nullptr;
    }

    // Those lines that there were not words enough for, and then, by a few rows, the next weights.
    void after_product(int count, const Asking& asking) {
        for (int i = panel_words; i < asking.count; ++i) prefetch(asking.listed[i]);
        if (!few) return;
        const size_t all = std::min<size_t>(panel_bytes / LINE, LINES_A_ROW * rows);
        const size_t until = std::min(all, finishing + LINES_A_ROW * count);
        for (; finishing < until; ++finishing) prefetch(coming + finishing * LINE);
    }

  private:
    // Those of the next panel, with the words of this one's third pass, if it has one.
    void list_next_expand(int count, Asking& asking) {
        was_listed = changes && LISTS_LINES && count > 2 * PASS_ROWS && after < op.num_panels;
        if (was_listed) list_expand(op, after, changes, count, asking);
    }
};

// --- all panels ---

template <class T>
void linear(const Space& space, Claims& claims, const Operation& op, int tid, LinearWork& own) {
    const size_t at = space.index_of(op);
    const int64_t rows = space.rows_of(op.source);
    const Change* changes = nullptr;
    if (space.is_adapted(op)) changes = find_changes<T>(space, op, rows, own.adapters.changes);
    Lookahead<T> lookahead{space, op, tid, rows, changes, own.adapters.shrinks};
    if (lookahead.looks_beyond) list_shrinks<T>(space, op, tid, own.adapters);
    alignas(64) float tile[BLOCK_ROWS][PANEL];
    int64_t panel = claims.next_panel(at, op.num_panels, tid);
    while (panel < op.num_panels) {
        const int64_t after = claims.next_panel(at, op.num_panels, tid);
        lookahead.turn_to(panel, after);
        for (int64_t r = 0; r < rows; r += BLOCK_ROWS) {
            const int count = int(std::min<int64_t>(BLOCK_ROWS, rows - r));
            Asking asking;
            lookahead.before(r, count, asking);
            multiply<T>(space, op, panel, r, count, asking, tile);
            lookahead.after_product(count, asking);
            finish<T>(space, op, panel, r, count, changes, tile, own);
        }
        panel = after;
    }
}

#if defined(__AMX_BF16__)

template <class T>
void add_tiles(const char* x, size_t stride, int rows, const int32_t* w, int steps, bool fresh,
               bool ahead, const Sum<T> (&in)[BLOCK_ROWS][PANEL],
               Sum<T> (&out)[BLOCK_ROWS][PANEL]) {
    const char* after = reinterpret_cast<const char*>(w + steps * 16 * PANEL);
    if (fresh && ahead) multiply_tiles<T, true, true>(x, stride, rows, w, steps, after, in, out);
    else if (fresh) multiply_tiles<T, true, false>(x, stride, rows, w, steps, after, in, out);
    else if (ahead) multiply_tiles<T, false, true>(x, stride, rows, w, steps, after, in, out);
    else multiply_tiles<T, false, false>(x, stride, rows, w, steps, after, in, out);
}

// One panel by all rows → finish(first row, rows, sums) for each block of them.
template <class T, class Finish>
void multiply_tall(const Space& space, const Operation& op, int64_t panel, int64_t rows,
                   Buffer& waiting, Finish finish) {
    using Tile = Sum<T>[BLOCK_ROWS][PANEL];
    const Buffer& in = source_of<T>(space, op);
    const int steps = words_of<T>(op) / 16;
    const int32_t* w = static_cast<const int32_t*>(op.weight) + panel * steps * 16 * PANEL;
    alignas(64) Tile whole;
    for (int from = 0; from < steps; from += TALL_STEPS) {
        const bool is_last = from + TALL_STEPS >= steps;
        const int taken = is_last ? steps - from : TALL_STEPS;
        for (int64_t r = 0; r < rows; r += BLOCK_ROWS) {
            const int count = int(std::min<int64_t>(BLOCK_ROWS, rows - r));
            Tile& so_far = *reinterpret_cast<Tile*>(waiting.row(r / BLOCK_ROWS));
            // The first block of rows brings the next stretch of weights for all.
            add_tiles<T>(in.row(r) + from * 64, in.stride, count, w + from * 16 * PANEL, taken,
                         from == 0, r == 0, so_far, is_last ? whole : so_far);
            if (is_last) finish(r, count, whole);
        }
    }
}

// More rows than one block: a stretch of the panel's weights stays in the first-level cache while
// all rows pass over it. Sums wait in memory between stretches, exact to the bit, so a row's result
// is that of `linear`.
template <class T>
void linear_tall(const Space& space, Claims& claims, const Operation& op, int tid,
                 LinearWork& own) {
    const size_t at = space.index_of(op);
    const int64_t rows = space.rows_of(op.source);
    const Change* changes = nullptr;
    if (space.is_adapted(op)) changes = find_changes<T>(space, op, rows, own.adapters.changes);
    own.sums.reserve((rows + BLOCK_ROWS - 1) / BLOCK_ROWS, sizeof(float) * BLOCK_ROWS * PANEL, 0);
    alignas(64) float tile[BLOCK_ROWS][PANEL];
    for (int64_t panel; (panel = claims.next_panel(at, op.num_panels, tid)) < op.num_panels;) {
        if (op.format == INT8)
            multiply_tall<Int8>(space, op, panel, rows, own.sums,
                                [&](int64_t r, int count, int32_t (&sums)[BLOCK_ROWS][PANEL]) {
                                    scale_int8(space, op, panel, r, count, sums, tile);
                                    finish<T>(space, op, panel, r, count, changes, tile, own);
                                });
        else
            multiply_tall<Bf16>(space, op, panel, rows, own.sums,
                                [&](int64_t r, int count, float (&sums)[BLOCK_ROWS][PANEL]) {
                                    finish<T>(space, op, panel, r, count, changes, sums, own);
                                });
    }
}

#endif

// --- weights in 4 bits ---

template <class T>
const Change* changes_of(const Space& space, const Operation& op, LinearWork& own) {
    if (!space.is_adapted(op)) return nullptr;
    return find_changes<T>(space, op, space.rows_of(op.source), own.adapters.changes);
}

// Calls take(panel, what to ask for meanwhile) for each panel that falls to this thread, claimed
// one ahead.
template <class T, class Take>
void each_panel(const Space& space, Claims& claims, const Operation& op, const Codes& codes,
                int tid, Take take) {
    const size_t at = space.index_of(op);
    int64_t panel = claims.next_panel(at, op.num_panels, tid);
    while (panel < op.num_panels) {
        const int64_t after = claims.next_panel(at, op.num_panels, tid);
        const char* coming = after < op.num_panels ? codes.panel(after)
                                                   : first_of_next<T>(space, op, tid);
        take(panel, Ahead{codes.panel(panel), coming, codes.panel_bytes});
        panel = after;
    }
}

// Up to 32 rows by a panel → out.
inline void multiply_codes(const Codes& codes, const ByteRows& x, int rows, const Ahead& ahead,
                           float (*out)[PANEL]) {
#if defined(__AMX_INT8__)
    if (rows > FEW_ROWS) return multiply_codes_by_tiles(codes, x, rows, ahead, out);
#endif
    multiply_codes_rows<FEW_ROWS>(codes, x, 0, rows, ahead, out);
}

template <class T>
void linear_codes(const Space& space, Claims& claims, const Operation& op, int tid,
                  LinearWork& own) {
    const Codes codes(op);
    const int64_t rows = space.rows_of(op.source);
    const Change* changes = changes_of<T>(space, op, own);
    alignas(64) float tile[BLOCK_ROWS][PANEL];
    each_panel<T>(space, claims, op, codes, tid, [&](int64_t panel, const Ahead& ahead) {
        for (int64_t r = 0; r < rows; r += BLOCK_ROWS) {
            const int count = int(std::min<int64_t>(BLOCK_ROWS, rows - r));
            if (changes) ask_for_expand(op, panel, changes + r * SITE_PARTS, count);
            multiply_codes(codes, byte_rows(space, r), count, ahead, tile);
            finish<T>(space, op, panel, r, count, changes, tile, own);
        }
    });
}

#if defined(__AMX_INT8__)

// More rows than one block: a stretch of the panel's codes is unpacked once for all of them.
template <class T>
void linear_codes_tall(const Space& space, Claims& claims, const Operation& op, int tid,
                       LinearWork& own) {
    using Tile = float[BLOCK_ROWS][PANEL];
    const Codes codes(op);
    const auto unpack_one = codes.has_offsets ? unpack<true> : unpack<false>;
    const auto add = codes.has_offsets ? add_block<true> : add_block<false>;
    const int64_t rows = space.rows_of(op.source);
    const int blocks = codes.blocks();
    const Change* changes = changes_of<T>(space, op, own);
    own.sums.reserve((rows + BLOCK_ROWS - 1) / BLOCK_ROWS, sizeof(Tile), 0);
    Unpacked unpacked[STRETCH_BLOCKS];
    alignas(64) BlockSums exact;
    each_panel<T>(space, claims, op, codes, tid, [&](int64_t panel, const Ahead& ahead) {
        for (int from = 0; from < blocks; from += STRETCH_BLOCKS) {
            const int end = std::min(blocks, from + STRETCH_BLOCKS);
            for (int block = from; block < end; ++block)
                unpack_one(codes, ahead.panel, block, unpacked[block - from]);
            finish_writing();
            for (int64_t r = 0; r < rows; r += BLOCK_ROWS) {
                const int count = int(std::min<int64_t>(BLOCK_ROWS, rows - r));
                Tile& sums = *reinterpret_cast<Tile*>(own.sums.row(r / BLOCK_ROWS));
                const ByteRows x = byte_rows(space, r);
                for (int block = from; block < end; ++block)
                    add(unpacked[block - from], x, count, block, exact, sums);
                if (end == blocks) finish<T>(space, op, panel, r, count, changes, sums, own);
            }
        }
    });
}

#endif

template <class T>
void run_codes(const Space& space, Claims& claims, const Operation& op, int tid, LinearWork& own) {
    const int64_t rows = space.rows_of(op.source);
    use_run_tiles(rows);
#if defined(__AMX_INT8__)
    if (rows > BLOCK_ROWS)
        linear_codes_tall<T>(space, claims, op, tid, own);
    else
#endif
        linear_codes<T>(space, claims, op, tid, own);
    use_linear_tiles();
}

// --- a linear ---

// This thread's part of a linear, from its source on: all threads meet once in between where a
// source must first be quantised or shrunk.
template <class T>
void run_linear(Space& space, Claims& claims, Barrier& barrier, const Operation& op, int tid,
                LinearWork& own) {
    const int threads = space.shape.threads;
    const int64_t rows = space.rows_of(op.source);
    if (op.format == INT8)
        for (int64_t r = tid; r < rows; r += threads) quantise<T>(space, op, r);
    if (op.format == CODES)
        for (int64_t r = tid; r < rows; r += threads) quantise_blocks<T>(space, op, r);
    if (space.is_adapted(op)) shrink<T>(space, op, tid, own.adapters);
    if (op.format != PLAIN || space.is_adapted(op)) barrier.wait(threads);
    if (op.format == CODES) return run_codes<T>(space, claims, op, tid, own);
#if defined(__AMX_BF16__)
    const bool by_tiles = op.format == INT8 || sizeof(T) == 2;
    if (rows > BLOCK_ROWS && by_tiles) return linear_tall<T>(space, claims, op, tid, own);
#endif
    linear<T>(space, claims, op, tid, own);
}

}  // namespace

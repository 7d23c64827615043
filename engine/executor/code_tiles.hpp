// Products of many rows over weights in 4 bits, by tile registers.
// Decides what is unpacked when, and what the processor does side by side. Its results are those of
// codes.hpp to the bit. Empty where the processor has no tiles.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "codes.hpp"
#include "space.hpp"
#include "tiles.hpp"
#include "words.hpp"

namespace {

#if defined(__AMX_INT8__)

constexpr int TILE_ROWS = 16;
constexpr int STRETCH_BLOCKS = 4;  // of many rows that are unpacked together

// One block's weights of a panel, ready for tiles: TIMES (code - 8), and scales divided by it. Where
// the linear ends inside of the block, zeros.
struct alignas(64) Unpacked {
    int8_t codes[BLOCK_GROUPS][2][GROUP / 4][LANES][4];  // a tile of weights for each half
    float scale[BLOCK_GROUPS][PANEL];
    float offset[BLOCK_GROUPS][PANEL];
};

// D of up to 16 rows and a block's groups.
typedef int32_t TileSums[BLOCK_GROUPS][TILE_ROWS][PANEL];

// Group `group` of a block.
template <bool OFFSETS>
inline void unpack_group(const Codes& w, const char* panel, int block, int group, Unpacked& out) {
    constexpr size_t GROUP_BYTES = CODES_BYTES + SCALES_BYTES * (OFFSETS ? 2 : 1);
    const int number = block * BLOCK_GROUPS + group;
    char* codes = reinterpret_cast<char*>(out.codes[group]);
    float* scales = out.scale[group];
    float* offsets = out.offset[group];
    if (number >= w.groups) {
        std::memset(codes, 0, sizeof(out.codes[group]));
        std::memset(scales, 0, sizeof(out.scale[0]));
        std::memset(offsets, 0, sizeof(out.offset[0]));
        return;
    }
    const char* at = panel + number * GROUP_BYTES;
    const __m512i high = _mm512_set1_epi8(char(0xf0));
#pragma GCC unroll 8
    for (int l = 0; l < CODES_BYTES / int(LINE); ++l, at += LINE, codes += 2 * LINE) {
        const __m512i both = _mm512_loadu_si512(at);
        _mm512_store_si512(codes, _mm512_and_si512(_mm512_slli_epi16(both, 4), high));
        _mm512_store_si512(codes + LINE, _mm512_and_si512(both, high));
    }
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
        const Floats scale = get_half(at + h * SCALES_BYTES / 2);
        store(scales + h * LANES, scale * (1.0f / TIMES));
        if (!OFFSETS) continue;
        const Floats offset = get_half(at + SCALES_BYTES + h * SCALES_BYTES / 2);
        store(offsets + h * LANES, fused(scale, spread(float(MIDDLE)), offset));
    }
}

// --- up to 32 rows: bound by memory, so that reading must never pause ---

// Some rows by one block: what is multiplied, and then scaled, while the next is multiplied.
struct Unit {
    const Unpacked* weights;
    const char* bytes;    // of the first row's block
    const float* scales;  // of the first row for the block
    const float* sums;    // of the first row for the block's first group
    bool begins;          // the rows' sums
    float (*out)[PANEL];
};

// Multiplies unit after unit of ROWS rows, each scaled while the next goes through the tiles, which
// have a part of the processor to themselves.
template <int ROWS, bool OFFSETS>
struct TilePipe {
    static constexpr int PART = ROWS / BLOCK_GROUPS;

    const ByteRows& x;
    alignas(64) TileSums sums[2];
    Unit last{};
    int turn = 0;
    bool has_last = false;

    explicit TilePipe(const ByteRows& rows) : x(rows) {}

    static Unit unit(const Unpacked& weights, const ByteRows& from, int first, int block,
                     float (*out)[PANEL]) {
        return {&weights,
                from.row(first) + block * ROW_BLOCK,
                from.scales + from.scale_stride * first + block,
                from.sums + from.sum_stride * first + block * BLOCK_GROUPS,
                block == 0,
                out};
    }

    // meanwhile(group): what else is to be done after each group.
    template <class Meanwhile>
    __attribute__((always_inline)) void take(const Unit& next, Meanwhile meanwhile) {
        TileSums& now = sums[turn ^ 1];
#pragma GCC unroll 4
        for (int group = 0; group < BLOCK_GROUPS; ++group) {
            multiply(next, group);
            store_sums();
            waiting = now[group];
            pair ^= 1;
            meanwhile(group);
            // The last of the sums before are there from the end of the first group on.
            if (!has_last) continue;
            if (group == 1) scale<0>();
            if (group == 2) scale<PART>();
            if (group == 3) scale<2 * PART>();
            if (group == 3) scale<3 * PART>();
        }
        last = next;
        has_last = true;
        turn ^= 1;
    }

    void finish() {
        store_sums();
        waiting = nullptr;
        scale<0>();
        scale<PART>();
        scale<2 * PART>();
        scale<3 * PART>();
        has_last = false;
    }

  private:
    using GroupSums = int32_t[PANEL];
    GroupSums* waiting = nullptr;  // where the sums in the other pair of tiles go
    int pair = 0;

    // Two pairs of tiles hold sums in turn: while one is added up, the other is stored.
    __attribute__((always_inline)) void multiply(const Unit& unit, int group) const {
        _tile_loadd(6, unit.weights->codes[group][0], LINE);
        _tile_loadd(7, unit.weights->codes[group][1], LINE);
        if (pair == 0) {
            _tile_zero(0);
            _tile_zero(1);
            _tile_loadd(4, unit.bytes + group * GROUP, x.stride);
            _tile_dpbssd(0, 4, 6);
            _tile_dpbssd(1, 4, 7);
        } else {
            _tile_zero(2);
            _tile_zero(3);
            _tile_loadd(5, unit.bytes + group * GROUP, x.stride);
            _tile_dpbssd(2, 5, 6);
            _tile_dpbssd(3, 5, 7);
        }
    }

    __attribute__((always_inline)) void store_sums() const {
        if (!waiting) return;
        if (pair == 1) {
            _tile_stored(0, waiting[0], PANEL * 4);
            _tile_stored(1, waiting[0] + LANES, PANEL * 4);
        } else {
            _tile_stored(2, waiting[0], PANEL * 4);
            _tile_stored(3, waiting[0] + LANES, PANEL * 4);
        }
    }

    // What D make of the sums of PART rows of the last unit, from row FROM on.
    template <int FROM>
    __attribute__((always_inline)) void scale() const {
        const TileSums& exact = sums[turn];
        const float* row_scale = last.scales + x.scale_stride * FROM;
        const float* row_sums = last.sums + x.sum_stride * FROM;
#pragma GCC unroll 2
        for (int h = 0; h < 2; ++h) {
            Floats scales[BLOCK_GROUPS];
            Floats offsets[BLOCK_GROUPS];
#pragma GCC unroll 4
            for (int g = 0; g < BLOCK_GROUPS; ++g) {
                scales[g] = load(last.weights->scale[g] + h * LANES);
                if (OFFSETS) offsets[g] = load(last.weights->offset[g] + h * LANES);
            }
#pragma GCC unroll 4
            for (int i = 0; i < PART; ++i) {
                Floats whole = {};
#pragma GCC unroll 4
                for (int g = 0; g < BLOCK_GROUPS; ++g) {
                    const Words sum = load_words(exact[g][FROM + i] + h * LANES);
                    whole = fused(scales[g], __builtin_convertvector(sum, Floats), whole);
                    if (OFFSETS)
                        whole = fused(offsets[g], spread(row_sums[x.sum_stride * i + g]), whole);
                }
                float* at = last.out[FROM + i] + h * LANES;
                const Floats before = last.begins ? Floats{} : load(at);
                store(at, fused(spread(row_scale[x.scale_stride * i]), whole, before));
            }
        }
    }
};

// Up to 32 rows by the panel → out; the next block is unpacked meanwhile.
template <int ROWS, bool OFFSETS>
__attribute__((noinline)) void pass_through(const Codes& w, const ByteRows& x, int rows,
                                            const Ahead& ahead, float (*out)[PANEL]) {
    TilePipe<ROWS, OFFSETS> pipe(x);
    using Pipe = decltype(pipe);
    Unpacked unpacked[3];  // the last one's scales are needed for a while
    const int blocks = w.blocks();
    for (int group = 0; group < BLOCK_GROUPS; ++group)
        unpack_group<OFFSETS>(w, ahead.panel, 0, group, unpacked[0]);
    for (int block = 0, now = 0; block < blocks; ++block) {
        const int next = now == 2 ? 0 : now + 1;
        pipe.take(Pipe::unit(unpacked[now], x, 0, block, out), [&](int group) {
            ahead.ask((block * BLOCK_GROUPS + group) * w.group_bytes, w.group_bytes, TILES_AHEAD);
            if (block + 1 < blocks)
                unpack_group<OFFSETS>(w, ahead.panel, block + 1, group, unpacked[next]);
        });
        if (rows > ROWS)
            pipe.take(Pipe::unit(unpacked[now], x, ROWS, block, out + ROWS), [](int) {});
        now = next;
    }
    pipe.finish();
}

inline void multiply_codes_by_tiles(const Codes& w, const ByteRows& x, int rows,
                                    const Ahead& ahead, float (*out)[PANEL]) {
    if (rows > 8 && w.has_offsets) pass_through<16, true>(w, x, rows, ahead, out);
    else if (rows > 8) pass_through<16, false>(w, x, rows, ahead, out);
    else if (w.has_offsets) pass_through<8, true>(w, x, rows, ahead, out);
    else pass_through<8, false>(w, x, rows, ahead, out);
}

// --- more rows: what is unpacked serves all of them ---

// D of a block's groups.
typedef int32_t BlockSums[BLOCK_GROUPS][BLOCK_ROWS][PANEL];

// D of up to 32 rows (BOTH: more than 16) and the groups of one block. The products are macros that
// take register numbers as they stand, so each is written out.
template <bool BOTH>
inline void multiply_block(const Unpacked& w, const char* x, size_t stride, BlockSums& out) {
#pragma GCC unroll 4
    for (int group = 0; group < BLOCK_GROUPS; ++group, x += GROUP) {
        _tile_zero(0);
        _tile_zero(1);
        if constexpr (BOTH) {
            _tile_zero(2);
            _tile_zero(3);
        }
        _tile_loadd(6, w.codes[group][0], LINE);
        _tile_loadd(7, w.codes[group][1], LINE);
        _tile_loadd(4, x, stride);
        _tile_dpbssd(0, 4, 6);
        _tile_dpbssd(1, 4, 7);
        if constexpr (BOTH) {
            _tile_loadd(5, x + 16 * stride, stride);
            _tile_dpbssd(2, 5, 6);
            _tile_dpbssd(3, 5, 7);
        }
        _tile_stored(0, out[group][0], PANEL * 4);
        _tile_stored(1, out[group][0] + LANES, PANEL * 4);
        if constexpr (BOTH) {
            _tile_stored(2, out[group][16], PANEL * 4);
            _tile_stored(3, out[group][16] + LANES, PANEL * 4);
        }
    }
}

// What a block's D make of each row's sum.
template <bool OFFSETS>
inline void scale_block(const Unpacked& w, const BlockSums& exact, const ByteRows& x, int rows,
                        int block, float (*out)[PANEL]) {
    for (int h = 0; h < 2; ++h) {
        Floats scales[BLOCK_GROUPS];
        Floats offsets[BLOCK_GROUPS];
#pragma GCC unroll 4
        for (int g = 0; g < BLOCK_GROUPS; ++g) {
            scales[g] = load(w.scale[g] + h * LANES);
            if (OFFSETS) offsets[g] = load(w.offset[g] + h * LANES);
        }
        const float* row_scale = x.scales + block;
        const float* row_sums = x.sums + block * BLOCK_GROUPS;
        for (int i = 0; i < rows; ++i) {
            Floats whole = {};
#pragma GCC unroll 4
            for (int g = 0; g < BLOCK_GROUPS; ++g) {
                const Words sum = load_words(exact[g][i] + h * LANES);
                whole = fused(scales[g], __builtin_convertvector(sum, Floats), whole);
                if (OFFSETS) whole = fused(offsets[g], spread(row_sums[g]), whole);
            }
            float* at = out[i] + h * LANES;
            store(at, fused(spread(*row_scale), whole, block ? load(at) : Floats{}));
            row_scale += x.scale_stride;
            row_sums += x.sum_stride;
        }
    }
}

// Up to 32 rows by what was unpacked of a block, added to `out`, which the first block begins.
template <bool OFFSETS>
__attribute__((noinline)) void add_block(const Unpacked& w, const ByteRows& x, int rows, int block,
                                         BlockSums& exact, float (*out)[PANEL]) {
    const char* bytes = x.bytes + block * ROW_BLOCK;
    if (rows > 16) multiply_block<true>(w, bytes, x.stride, exact);
    else multiply_block<false>(w, bytes, x.stride, exact);
    scale_block<OFFSETS>(w, exact, x, rows, block, out);
}

template <bool OFFSETS>
__attribute__((noinline)) void unpack(const Codes& w, const char* panel, int block,
                                      Unpacked& out) {
    for (int group = 0; group < BLOCK_GROUPS; ++group)
        unpack_group<OFFSETS>(w, panel, block, group, out);
}

#endif

}  // namespace

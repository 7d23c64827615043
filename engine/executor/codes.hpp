// Products over weights in 4 bits, as their file has them: no weight is ever widened in memory.
// Decides how codes lie, in which order scales are applied, and how few rows are multiplied (many
// rows: code_tiles.hpp). Knows no program of operations, no adapters, no threads.
//
//   weight   scale * code + offset, a scale and an offset for each 32 inputs (a group) of a column
//   panel    [group][codes | 32 scales | 32 offsets, where the linear has any], float16
//   codes    of 32 inputs and 32 columns: [half of 16 columns][line][column][4]. A line's low
//            halves of bytes are the codes of one word of inputs, its high ones those of the next, each
//            with 8 taken off, as a signed number of 4 bits
//   row      bytes with one scale for each block of 128 inputs
//
//   y = sum over blocks of a * (sum over groups of s * D + o * Q)
//       D = sum of (code - 8) * x, Q = sum of x, of a group: whole numbers, exact
//       s, o = scale, offset + 8 * scale; a = the block's scale of the row
//
// D and Q are exact and the rest runs in this order everywhere, so that vectors and tiles give the
// same bits, for any number of rows.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "program.hpp"
#include "space.hpp"
#include "words.hpp"

namespace {

constexpr int GROUP = 32;  // inputs
constexpr int BLOCK_GROUPS = ROW_BLOCK / GROUP;
constexpr int CODES_BYTES = GROUP * PANEL / 2;  // of a group
constexpr int SCALES_BYTES = 2 * PANEL;
constexpr int MIDDLE = 8;  // taken off each code
constexpr size_t FEW_AHEAD = 2 << 10;  // bytes: how far on memory is asked for
constexpr size_t TILES_AHEAD = 8 << 10;

// A linear's codes, and how they lie.
struct Codes {
    const char* data;
    int groups;  // of a column
    bool has_offsets;
    size_t group_bytes;
    size_t panel_bytes;

    explicit Codes(const Operation& op)
        : data(static_cast<const char*>(op.weight)),
          groups(op.width_in / GROUP),
          has_offsets(op.has_offsets),
          group_bytes(CODES_BYTES + SCALES_BYTES * (has_offsets ? 2 : 1)),
          panel_bytes(group_bytes * groups) {}

    const char* panel(int64_t number) const { return data + number * panel_bytes; }
    const char* scales(const char* group) const { return group + CODES_BYTES; }
    int blocks() const { return (groups + BLOCK_GROUPS - 1) / BLOCK_GROUPS; }
};

// Rows of an operation's source in bytes.
struct ByteRows {
    const char* bytes;
    size_t stride;
    const float* scales;  // [row][block]
    const float* sums;    // [row][group]
    size_t scale_stride;
    size_t sum_stride;

    const char* row(int i) const { return bytes + stride * i; }
    ByteRows from(int i) const {
        return {row(i), stride, scales + scale_stride * i, sums + sum_stride * i, scale_stride,
                sum_stride};
    }
    float scale(int i, int block) const { return scales[scale_stride * i + block]; }
    float sum(int i, int group) const { return sums[sum_stride * i + group]; }
};

inline ByteRows byte_rows(const Space& space, int64_t first) {
    return {space.quantised.row(first),
            space.quantised.stride,
            reinterpret_cast<const float*>(space.block_scales.row(first)),
            reinterpret_cast<const float*>(space.group_sums.row(first)),
            space.block_scales.stride / 4,
            space.group_sums.stride / 4};
}

// A panel that is multiplied, and what comes after it: both are asked for meanwhile.
struct Ahead {
    const char* panel;
    const char* coming;
    size_t panel_bytes;

    // The lines that lie so far beyond these bytes of the panel.
    void ask(size_t from, size_t bytes, size_t beyond) const {
        const size_t at = from + beyond;
        const char* lines = at < panel_bytes ? panel + at : coming + (at - panel_bytes);
        for (size_t i = 0; i < bytes; i += LINE) prefetch(lines + i);
    }
};

// --- rows to bytes ---

// Row r of the source to signed bytes, a scale for each block. A block that holds a number that is
// not finite gets NaN for a scale.
template <class T>
void quantise_blocks(Space& space, const Operation& op, int64_t r) {
    const T* in = space.row<T>(op.source, r);
    auto* out = reinterpret_cast<uint8_t*>(space.quantised.row(r));
    auto* scales = reinterpret_cast<float*>(space.block_scales.row(r));
    auto* sums = reinterpret_cast<float*>(space.group_sums.row(r));
    for (int first = 0; first < op.width_in; first += ROW_BLOCK) {
        const int end = std::min(op.width_in, first + ROW_BLOCK);
        Floats most = {};
        Floats finite = {};
        for (int i = first; i < end; i += LANES) {
            Floats x = get(in + i);
            finite += x * 0.0f;
            x = x < 0 ? -x : x;
            most = x > most ? x : most;
        }
        const float top = largest(most);
        const float inverse = top > 0 ? 127.0f / top : 0.0f;
        *scales++ = top / 127.0f + total(finite);
        Words sum = {};
        for (int i = first; i < end; i += LANES) {
            const Floats x = get(in + i) * inverse;
            const Floats half = x < 0 ? spread(-0.5f) : spread(0.5f);
            const Words whole = __builtin_convertvector(x + half, Words);
            put_bytes(out + i, whole);
            sum += whole;
            if ((i + LANES) % GROUP) continue;
            *sums++ = total(__builtin_convertvector(sum, Floats));
            sum = Words{};
        }
    }
}

// --- by vectors ---

// What D is multiplied by: where the processor takes bytes as they come, codes may stay in their
// upper halves, and no bit of the outcome changes.
#if defined(__AVX512VNNI__)
constexpr float TIMES = 16;
#else
constexpr float TIMES = 1;
#endif

// D of R rows and half of a panel's columns, added to `sum`, which begins at -8 Q: the processor
// multiplies unsigned codes by signed bytes.
template <int R>
inline void add_group(const char* lines, const ByteRows& x, int first_row, int input,
                    Words (&sum)[R]) {
#if defined(__AVX512VNNI__)
    const __m512i high = _mm512_set1_epi8(char(0xf0));
    const __m512i sign = _mm512_set1_epi8(char(0x80));
#pragma GCC unroll 4
    for (int l = 0; l < GROUP / 8; ++l) {
        const __m512i both = _mm512_loadu_si512(lines + l * LINE);
        // (half & 0xf0) ^ 0x80: sixteen times the code
        const __m512i even = _mm512_ternarylogic_epi32(_mm512_slli_epi16(both, 4), high, sign, 0x6a);
        const __m512i odd = _mm512_ternarylogic_epi32(both, high, sign, 0x6a);
#pragma GCC unroll 8
        for (int i = 0; i < R; ++i) {
            const char* at = x.row(first_row + i) + input + 8 * l;
            const __m512i left = _mm512_set1_epi32(word(at, 0));
            const __m512i right = _mm512_set1_epi32(word(at, 1));
            sum[i] = (Words)_mm512_dpbusd_epi32((__m512i)sum[i], even, left);
            sum[i] = (Words)_mm512_dpbusd_epi32((__m512i)sum[i], odd, right);
        }
    }
#elif defined(__AVX512BW__)
    const __m512i low = _mm512_set1_epi8(15);
    const __m512i sign = _mm512_set1_epi8(8);
    __m512i pairs[R] = {};
#pragma GCC unroll 4
    for (int l = 0; l < GROUP / 8; ++l) {
        const __m512i both = _mm512_loadu_si512(lines + l * LINE);
        const __m512i even = _mm512_ternarylogic_epi32(both, low, sign, 0x6a);
        const __m512i odd = _mm512_ternarylogic_epi32(_mm512_srli_epi16(both, 4), low, sign, 0x6a);
#pragma GCC unroll 8
        for (int i = 0; i < R; ++i) {
            const char* at = x.row(first_row + i) + input + 8 * l;
            const __m512i left = _mm512_set1_epi32(word(at, 0));
            const __m512i right = _mm512_set1_epi32(word(at, 1));
            pairs[i] = _mm512_add_epi16(pairs[i], _mm512_maddubs_epi16(even, left));
            pairs[i] = _mm512_add_epi16(pairs[i], _mm512_maddubs_epi16(odd, right));
        }
    }
    // Sixteen products of at most 15 * 127 to each: they fit into 16 bits.
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i)
        sum[i] += (Words)_mm512_madd_epi16(pairs[i], _mm512_set1_epi16(1));
#else
    const __m256i low = _mm256_set1_epi8(15);
    const __m256i sign = _mm256_set1_epi8(8);
    for (int part = 0; part < 2; ++part) {
        __m256i pairs[R] = {};
#pragma GCC unroll 4
        for (int l = 0; l < GROUP / 8; ++l) {
            const __m256i both = _mm256_loadu_si256(
                reinterpret_cast<const __m256i*>(lines + l * LINE + part * 32));
            const __m256i even = _mm256_xor_si256(_mm256_and_si256(both, low), sign);
            const __m256i odd =
                _mm256_xor_si256(_mm256_and_si256(_mm256_srli_epi16(both, 4), low), sign);
#pragma GCC unroll 8
            for (int i = 0; i < R; ++i) {
                const char* at = x.row(first_row + i) + input + 8 * l;
                const __m256i left = _mm256_set1_epi32(word(at, 0));
                const __m256i right = _mm256_set1_epi32(word(at, 1));
                pairs[i] = _mm256_add_epi16(pairs[i], _mm256_maddubs_epi16(even, left));
                pairs[i] = _mm256_add_epi16(pairs[i], _mm256_maddubs_epi16(odd, right));
            }
        }
#pragma GCC unroll 8
        for (int i = 0; i < R; ++i) {
            const __m256i whole = _mm256_madd_epi16(pairs[i], _mm256_set1_epi16(1));
            auto* at = reinterpret_cast<__m256i*>(&sum[i]) + part;
            _mm256_store_si256(at, _mm256_add_epi32(_mm256_load_si256(at), whole));
        }
    }
#endif
}

// R rows by a panel's codes → out [R][PANEL].
template <int R>
void multiply_codes_by_vectors(const Codes& w, const ByteRows& x, int first_row,
                               const Ahead& ahead, float (*out)[PANEL]) {
    const char* group = ahead.panel;
    for (int from = 0, block = 0; from < w.groups; from += BLOCK_GROUPS, ++block) {
        const int end = std::min(w.groups, from + BLOCK_GROUPS);
        Floats blocks[R][2] = {};
        for (int g = from; g < end; ++g) {
            ahead.ask(group - ahead.panel, w.group_bytes, FEW_AHEAD);
            Words sum[2][R];
#pragma GCC unroll 8
            for (int i = 0; i < R; ++i)
                sum[0][i] = sum[1][i] = spread(int32_t(-MIDDLE * TIMES * x.sum(first_row + i, g)));
#pragma GCC unroll 2
            for (int h = 0; h < 2; ++h)
                add_group<R>(group + h * (CODES_BYTES / 2), x, first_row, g * GROUP, sum[h]);
            group += CODES_BYTES;
#pragma GCC unroll 2
            for (int h = 0; h < 2; ++h) {
                const Floats scale = get_half(group + h * SCALES_BYTES / 2);
#pragma GCC unroll 8
                for (int i = 0; i < R; ++i)
                    blocks[i][h] = fused(scale * (1.0f / TIMES),
                                         __builtin_convertvector(sum[h][i], Floats), blocks[i][h]);
                if (!w.has_offsets) continue;
                const Floats offset = get_half(group + SCALES_BYTES + h * SCALES_BYTES / 2);
                const Floats shifted = fused(scale, spread(float(MIDDLE)), offset);
#pragma GCC unroll 8
                for (int i = 0; i < R; ++i)
                    blocks[i][h] = fused(shifted, spread(x.sum(first_row + i, g)), blocks[i][h]);
            }
            group += SCALES_BYTES * (w.has_offsets ? 2 : 1);
        }
#pragma GCC unroll 8
        for (int i = 0; i < R; ++i)
#pragma GCC unroll 2
            for (int h = 0; h < 2; ++h) {
                float* at = out[first_row + i] + h * LANES;
                const Floats before = block ? load(at) : Floats{};
                store(at, fused(spread(x.scale(first_row + i, block)), blocks[i][h], before));
            }
    }
}

template <int R>
void multiply_codes_rows(const Codes& w, const ByteRows& x, int first, int rows,
                         const Ahead& ahead, float (*out)[PANEL]) {
    for (; first + R <= rows; first += R)
        multiply_codes_by_vectors<R>(w, x, first, ahead, out);
    if constexpr (R > 1) multiply_codes_rows<R / 2>(w, x, first, rows, ahead, out);
}

}  // namespace

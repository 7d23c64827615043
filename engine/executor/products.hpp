// The product of some rows and one panel of 32 columns, by vectors; and what is asked of memory
// meanwhile.
// Decides how many rows go through the weights at once and when each line is asked for. Knows no
// program, no adapters, no threads.
//
// Weights of a linear lie by panels: [panel][in / V][32 columns][V], so that a step of the inner
// loop reads two lines and the processor's prefetcher can follow.
//
// Every row's result depends on that row alone, bit for bit: its sums run in one fixed order,
// whatever the number of rows.

#pragma once

#include <cstddef>

#include "program.hpp"
#include "space.hpp"
#include "words.hpp"

namespace {

// Rows that pass over a panel's weights together. Each has two sums of 16 columns: 12 rows fill 24
// of 32 registers, 3 rows 12 of 16 half as wide.
#if defined(__AVX512F__)
constexpr int PASS_ROWS = 12;
#else
constexpr int PASS_ROWS = 3;
#endif
constexpr int CHAIN_WORDS = 32;  // products in one sum of float32

// Which lines of the weights `ahead` are asked for. BOTH: two with each word, in the only pass.
// EVERY_SECOND: so few rows pass that the processor's own prefetcher brings the others; asking for
// all would leave it nothing to see. ONE_A_PASS: one with each word of the first two passes.
enum Lines { NO_LINES, ONE_A_PASS, EVERY_SECOND, BOTH };

// What is asked for while a block of rows is multiplied, spread over its words: memory takes up few
// requests at once, and a burst of them would hold up the weights that are needed now.
struct Asking {
    const char* ahead;
    Lines lines;
    const char* other[2];  // besides, with the words of the first and the second pass; or null
    int count = 0;
    const char* listed[2 * BLOCK_ROWS * LANES];  // single lines, with the words of the third
};

// What one pass asks for: where it begins, how many bytes further with each word, and how far off
// it asks once more. What is asked for again is there already and costs next to nothing, so the
// inner loop needs no branch.
struct Asked {
    const char* at;
    size_t onward;
    ptrdiff_t apart;

    void with_word(int k) const {
        const char* line = at + k * onward;
        prefetch(line);
        prefetch(line + apart);
    }
};

inline Asked asked_in(int pass, const Asking& asking, int words, const char* x) {
    if (asking.lines >= EVERY_SECOND)
        return {asking.ahead, 2 * LINE, asking.lines == BOTH ? ptrdiff_t(LINE) : 0};
    if (asking.lines == NO_LINES || pass > 1) return {x, 0, 0};
    const char* at = asking.ahead + pass * size_t(words) * LINE;
    const char* other = asking.other[pass];
    return {at, LINE, other ? other - at : 0};
}

// Addresses of R rows from few registers: every third row's, and how far two more lie behind it,
// which one instruction adds up. R addresses would not fit beside the sums.
template <int R>
struct Rows {
    const char* thirds[(R + 2) / 3];
    size_t stride;

    Rows(const char* x, size_t s) : stride(s) {
        for (int g = 0; g < (R + 2) / 3; ++g) thirds[g] = x + s * 3 * g;
    }

    const char* operator[](int i) const { return thirds[i / 3] + stride * (i % 3); }
};

// Rows [rows][words] of T by a panel's weights [words][PANEL] words → out [rows][PANEL]: R rows a
// pass, then those that are left, with fewer a pass. LISTED: this pass asks for the listed lines.
template <class T, int R, bool LISTED = false>
void multiply_rows(const char* x, size_t stride, int rows, const int32_t* w, int words,
                   Sum<T>* out, const Asking& asking, int pass = 0) {
    // Sums of sums: one long chain of float32 additions would lose digits. Whole numbers lose none.
    const int chain = std::is_same_v<T, Int8> ? words : CHAIN_WORDS;
    for (; rows >= R; rows -= R, x += stride * R, out += PANEL * R, ++pass) {
        const Asked asked = asked_in(pass, asking, words, x);
        const Rows<R> row(x, stride);
        for (int from = 0; from < words; from += chain) {
            Sums<T> sum[R][2] = {};
            const int end = std::min(words, from + chain);
#pragma GCC unroll 4
            for (int k = from; k < end; ++k) {
                if (LISTED) prefetch(asking.listed[std::min(k, asking.count - 1)]);
                else asked.with_word(k);
                const Words left = load_words(w + k * PANEL);
                const Words right = load_words(w + k * PANEL + LANES);
#pragma GCC unroll 12
                for (int i = 0; i < R; ++i) {
                    const Words number = spread(word(row[i], k));
                    sum[i][0] = madd(sum[i][0], left, number, T{});
                    sum[i][1] = madd(sum[i][1], right, number, T{});
                }
                // Else GCC puts together what four words ask for, and the burst holds up the
                // weights (2 % at 32 rows). With fewer rows it is faster left alone.
                if (R > 8) asm volatile("");
            }
            for (int i = 0; i < R; ++i)
                for (int h = 0; h < 2; ++h) {
                    Sum<T>* at = out + i * PANEL + h * LANES;
                    store(at, from ? load_sums(at) + sum[i][h] : sum[i][h]);
                }
        }
    }
    if constexpr (R > 1) {
        constexpr int FEWER = R > 8 ? 8 : R > 4 ? 4 : R > 2 ? 2 : 1;
        if (rows == 0) return;
        if (LISTED || (pass > 1 && asking.count > 0))
            multiply_rows<T, FEWER, true>(x, stride, rows, w, words, out, asking, pass);
        else multiply_rows<T, FEWER>(x, stride, rows, w, words, out, asking, pass);
    }
}

}  // namespace

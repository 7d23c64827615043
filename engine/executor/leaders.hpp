// The highest logit of each row, and whether all are finite, found while logits are made: they need
// not be read again when nothing else is asked of them.
// Knows no program: is given each panel's logits as they come.

#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "program.hpp"
#include "words.hpp"

namespace {

// Of one row, lane by lane, as far as one thread has seen its logits.
struct Leaders {
    Floats highest;
    Words where;
    Floats sum;  // of zeros, or NaN once a logit was not finite
};

inline void forget(std::vector<Leaders>& seen, int64_t rows) {
    seen.assign(rows, {spread(-INFINITY), Words{}, Floats{}});
}

// Takes in the logits of the ids from `first` on. Those from `vocab` on are padding.
inline void follow(Leaders& row, int64_t first, const float (&logits)[PANEL], int64_t vocab) {
    for (int h = 0; h < 2; ++h) {
        const Words id = lane_numbers() + int32_t(first + h * LANES);
        Floats x = load(logits + h * LANES);
        row.sum += x * 0.0f;
        x = id < int32_t(vocab) ? x : spread(-INFINITY);
        const Words more = x > row.highest;
        row.highest = more ? x : row.highest;
        row.where = more ? id : row.where;
    }
}

// The lowest id of one row's highest logit, among what all threads have seen.
struct Leader {
    float highest = -INFINITY;
    int64_t id = 0;
    float sum = 0;

    void take(const Leaders& seen) {
        for (int l = 0; l < LANES; ++l) {
            const float x = seen.highest[l];
            const int64_t at = seen.where[l];
            if (x > highest || (x == highest && at < id)) {
                highest = x;
                id = at;
            }
            sum += seen.sum[l];
        }
    }
};

}  // namespace

// Chooses one token from one row of logits, as docs/protocols/sampling.md says; draw.py holds the
// plain form of the same.
// Decides which id wins and by how much. Knows no model and no threads.
//
// Noise is only computed where it may decide: an id wins by its logit plus noise, and the noise of
// 64 ids is 64 words of Philox, compared with the word that the block's highest logit would need.
// Logarithms are then taken of the few that pass.

#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace {

struct Draw {
    int64_t row;
    int64_t position;
    int64_t num_changed;
    int64_t token;  // whose margin is asked, or -1
    int64_t top_k;
    double temperature;
    double top_p;
    double min_p;
    const int32_t* changed;   // ids, ascending
    const double* values;     // their logits
    const uint32_t* allowed;  // one bit an id, or null: all
    uint32_t key[2];
    uint32_t nonce[2];
    int64_t winner;
    double margin;
};

constexpr int DRAW_BLOCK = 64;
constexpr int NUM_BINS = 1024;
// e^-60 of the likeliest id's weight: below the last bit of any sum of weights
constexpr double NEGLIGIBLE = 60.0;
constexpr double EXCLUDED_MARGIN = 1e-6;
constexpr double MAX_MARGIN = 1000.0;
const double NOISE_LIMIT = -std::log(-std::log1p(-std::ldexp(1.0, -33)));

typedef uint64_t Wide __attribute__((vector_size(64)));
typedef double Doubles __attribute__((vector_size(64)));

inline Wide multiply_low(Wide a, Wide b) {  // of the lower halves, whole products
#if defined(__AVX512F__)
    return (Wide)_mm512_mul_epu32((__m512i)a, (__m512i)b);
#else
    union Halves {
        Wide wide;
        __m256i half[2];
    };
    Halves x{a};
    Halves y{b};
    Halves out;
    for (int h = 0; h < 2; ++h) out.half[h] = _mm256_mul_epu32(x.half[h], y.half[h]);
    return out.wide;
#endif
}

// The noise words of `DRAW_BLOCK` ids from `first`: Philox-4x32-10. Only the lower halves of the
// lanes count.
inline void noise_words(const Draw& draw, uint64_t first, uint32_t (&words)[DRAW_BLOCK]) {
    const Wide lane = {0, 1, 2, 3, 4, 5, 6, 7};
    const Wide m0 = Wide{} + 0xD2511F53u;
    const Wide m1 = Wide{} + 0xCD9E8D57u;
    for (int at = 0; at < DRAW_BLOCK; at += 8) {
        Wide c0 = lane + (first + at);
        Wide c1 = Wide{} + uint64_t(draw.position);
        Wide c2 = Wide{} + uint64_t(draw.nonce[0]);
        Wide c3 = Wide{} + uint64_t(draw.nonce[1]);
        uint32_t k0 = draw.key[0];
        uint32_t k1 = draw.key[1];
        for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
            Wide p0 = multiply_low(c0, m0);
            Wide p1 = multiply_low(c2, m1);
            c0 = (p1 >> 32) ^ c1 ^ uint64_t(k0);
            c2 = (p0 >> 32) ^ c3 ^ uint64_t(k1);
            c1 = p1;
            c3 = p0;
        }
        for (int l = 0; l < 8; ++l) words[at + l] = uint32_t(c0[l]);
    }
}

inline double noise_of(uint32_t word) { return -std::log(-std::log((word + 0.5) * 0x1p-32)); }

inline double noise_at(const Draw& draw, int64_t id) {
    uint32_t words[DRAW_BLOCK];
    noise_words(draw, id, words);
    return noise_of(words[0]);
}

// The least word whose noise reaches `needed`, or a little less.
inline uint32_t least_word(double needed) {
    double word = std::exp(-std::exp(-needed)) * 0x1p32 - 2.0;
    return word <= 0 ? 0 : word >= 0x1p32 ? UINT32_MAX : uint32_t(word);
}

// e^x for x in [-60, 0], to about one unit in the last place: 2^n * e^f with |f| <= ln(2) / 2 and a
// Taylor polynomial.
inline Doubles exponential(Doubles x) {
    Doubles scaled = x * 1.4426950408889634 - 0.5;
    typedef int64_t Longs __attribute__((vector_size(64)));
    // Towards zero, so to the nearest of what is not shifted.
    Longs n = __builtin_convertvector(scaled, Longs);
    Doubles whole = __builtin_convertvector(n, Doubles);
    Doubles f = (x - whole * 0.6931471803691238) - whole * 1.9082149292705877e-10;
    Doubles p = Doubles{} + 1.0 / 6227020800.0;
    const double factorials[] = {
        479001600.0, 39916800.0, 3628800.0, 362880.0, 40320.0, 5040.0, 720.0,
        120.0,       24.0,       6.0,       2.0,      1.0,     1.0,
    };
    for (double factorial : factorials) p = p * f + 1.0 / factorial;
    return p * (Doubles)((n + 1023) << 52);
}

// The last id that may win, in the order (logit descending, id ascending).
struct Boundary {
    double logit = -std::numeric_limits<double>::infinity();
    int64_t id = -1;
    bool keeps(double x, int64_t at) const { return x > logit || (x == logit && at <= id); }
    void tighten(double x, int64_t at) {
        if (x > logit || (x == logit && at < id)) {
            logit = x;
            id = at;
        }
    }
};

// What one thread works with; grows to the vocabulary once.
struct Drawer {
    std::vector<double> row;
    std::vector<double> block_highest;
    std::vector<std::pair<double, int64_t>> members;
    std::vector<double> weights;

    void reserve(int64_t vocab) {
        row.reserve(vocab);
        weights.reserve(vocab + 8);
        members.reserve(vocab);
        block_highest.reserve(vocab / DRAW_BLOCK + 1);
    }

    void draw(const float* logits, int64_t vocab, Draw& d) {
        if (!d.num_changed && !d.allowed) return choose(logits, vocab, d);
        row.resize(vocab);
        for (int64_t i = 0; i < vocab; ++i) row[i] = logits[i];
        for (int64_t i = 0; i < d.num_changed; ++i) row[d.changed[i]] = d.values[i];
        if (d.allowed)
            for (int64_t i = 0; i < vocab; ++i)
                if (!(d.allowed[i / 32] >> (i % 32) & 1)) row[i] = -INFINITY;
        choose(row.data(), vocab, d);
    }

    template <class X>
    void choose(const X* x, int64_t vocab, Draw& d) {
        int64_t blocks = (vocab + DRAW_BLOCK - 1) / DRAW_BLOCK;
        int64_t first = 0;
        block_highest.resize(blocks);
        for (int64_t b = 0; b < blocks; ++b) {
            int64_t count = std::min<int64_t>(DRAW_BLOCK, vocab - b * DRAW_BLOCK);
            block_highest[b] = highest_of(x + b * DRAW_BLOCK, count);
            if (block_highest[b] > block_highest[first]) first = b;
        }
        double highest = block_highest[first];
        if (d.temperature == 0) {
            d.winner = std::find(x + first * DRAW_BLOCK, x + vocab, X(highest)) - x;
            d.margin = 0.0;
            if (d.token >= 0) d.margin = std::min(MAX_MARGIN, highest - double(x[d.token]));
            return;
        }
        Boundary boundary = find_boundary(x, vocab, d, highest);
        double best = -INFINITY;
        d.winner = -1;
        look_at(x, vocab, d, boundary, first, best);
        for (int64_t b = 0; b < blocks; ++b)
            if (b != first) look_at(x, vocab, d, boundary, b, best);
        if (d.token >= 0) d.margin = margin_of(x, vocab, d, boundary, best);
    }

    // Whole blocks lane by lane, which the compiler turns into vectors.
    template <class X>
    static double highest_of(const X* x, int64_t count) {
        if (count != DRAW_BLOCK) return *std::max_element(x, x + count);
        auto higher = [](X a, X b) { return a > b ? a : b; };
        X lanes[16];
        for (int l = 0; l < 16; ++l) lanes[l] = x[l];
        for (int i = 16; i < DRAW_BLOCK; i += 16)
            for (int l = 0; l < 16; ++l) lanes[l] = higher(lanes[l], x[i + l]);
        for (int width = 8; width; width /= 2)
            for (int l = 0; l < width; ++l) lanes[l] = higher(lanes[l], lanes[l + width]);
        return lanes[0];
    }

    // Whether an id of this block beats the best so far.
    template <class X>
    void look_at(const X* x, int64_t vocab, Draw& d, const Boundary& boundary, int64_t block,
                 double& best) const {
        double highest = block_highest[block];
        if (highest < boundary.logit || highest == -INFINITY) return;
        double needed = best - highest / d.temperature;
        if (needed > NOISE_LIMIT + 1e-9) return;
        uint32_t least = d.winner < 0 ? 0 : least_word(needed);
        uint32_t words[DRAW_BLOCK];
        int64_t from = block * DRAW_BLOCK;
        int64_t count = std::min<int64_t>(DRAW_BLOCK, vocab - from);
        noise_words(d, from, words);
        for (int64_t i = 0; i < count; ++i) {
            double logit = x[from + i];
            if (words[i] < least || !boundary.keeps(logit, from + i)) continue;
            double score = logit / d.temperature + noise_of(words[i]);
            if (score > best || (score == best && from + i < d.winner)) {
                best = score;
                d.winner = from + i;
            }
        }
    }

    template <class X>
    static double margin_of(const X* x, int64_t vocab, const Draw& d, const Boundary& boundary,
                            double best) {
        double logit = x[d.token];
        if (logit == -INFINITY) return MAX_MARGIN;
        double score = logit / d.temperature + noise_at(d, d.token);
        double margin = std::max(0.0, best - score) * d.temperature;
        if (boundary.keeps(logit, d.token)) return std::min(MAX_MARGIN, margin);
        double lowest = INFINITY;
        for (int64_t i = 0; i < vocab; ++i)
            if (boundary.keeps(x[i], i)) lowest = std::min(lowest, double(x[i]));
        return std::min(MAX_MARGIN, margin + std::max(EXCLUDED_MARGIN, lowest - logit));
    }

    // --- which ids may win ---

    template <class X>
    Boundary find_boundary(const X* x, int64_t vocab, const Draw& d, double highest) {
        Boundary boundary;
        if (d.min_p > 0) boundary.tighten(highest + d.temperature * std::log(d.min_p), vocab);
        bool by_count = d.top_k > 0 && d.top_k < vocab;
        bool by_weight = d.top_p < 1;
        if (!by_count && !by_weight) return boundary;
        // Bins of equal width from the highest logit down; what weighs nothing falls into the last.
        double width = NEGLIGIBLE * d.temperature / (NUM_BINS - 1);
        if (by_count) {
            double lowest = highest;
            for (int64_t i = 0; i < vocab; ++i)
                if (x[i] > -INFINITY) lowest = std::min(lowest, double(x[i]));
            width = std::max(width, (highest - lowest) / (NUM_BINS - 1));
        }
        double weight_in[NUM_BINS] = {};
        int64_t count_in[NUM_BINS] = {};
        weigh(x, vocab, highest, d.temperature);
        auto bin_of = [&](double logit) {
            return int(std::min((highest - logit) / width, double(NUM_BINS - 1)));
        };
        for (int64_t i = 0; i < vocab; ++i) {
            if (!(x[i] > -INFINITY)) continue;
            int bin = bin_of(x[i]);
            weight_in[bin] += weights[i];
            ++count_in[bin];
        }
        int64_t left = by_count ? d.top_k : vocab + 1;
        double total = 0;
        for (int bin = 0; bin < NUM_BINS && left > 0; ++bin) {
            if (count_in[bin] < left) {
                left -= count_in[bin];
                total += weight_in[bin];
                continue;
            }
            collect(x, vocab, bin, bin_of);  // top-k ends in this bin
            for (int64_t i = 0; i < left; ++i) total += weights[members[i].second];
            boundary.tighten(members[left - 1].first, members[left - 1].second);
            left = 0;
        }
        if (!by_weight) return boundary;
        double wanted = d.top_p * total;
        double sum = 0;
        for (int bin = 0; bin < NUM_BINS; ++bin) {
            if (sum + weight_in[bin] < wanted) {
                sum += weight_in[bin];
                continue;
            }
            collect(x, vocab, bin, bin_of);
            for (const auto& [logit, id] : members) {
                sum += weights[id];
                if (sum < wanted) continue;
                boundary.tighten(logit, id);
                return boundary;
            }
        }
        return boundary;
    }

    template <class X>
    void weigh(const X* x, int64_t vocab, double highest, double temperature) {
        weights.resize((vocab + 7) / 8 * 8);
        for (int64_t i = 0; i < vocab; i += 8) {
            Doubles scaled;
            for (int l = 0; l < 8; ++l) {
                scaled[l] = -INFINITY;
                if (i + l < vocab) scaled[l] = (double(x[i + l]) - highest) / temperature;
            }
            Doubles small = exponential(scaled < -NEGLIGIBLE ? Doubles{} - NEGLIGIBLE : scaled);
            small = scaled < -NEGLIGIBLE ? Doubles{} : small;
            for (int l = 0; l < 8; ++l) weights[i + l] = small[l];
        }
    }

    template <class X, class Bin>
    void collect(const X* x, int64_t vocab, int bin, Bin bin_of) {
        members.clear();
        for (int64_t i = 0; i < vocab; ++i)
            if (x[i] > -INFINITY && bin_of(x[i]) == bin) members.emplace_back(-double(x[i]), i);
        std::sort(members.begin(), members.end());
        for (auto& member : members) member.first = -member.first;
    }
};

}  // namespace

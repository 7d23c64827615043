// Layers whose MLP is a router and experts: which experts each row passes, and the way there and
// back.
// Decides which rows lie together and which panels are multiplied at all. Knows no attention, and of
// adapters that those of a row go with it.
//
//   scores  [row][experts]   → choose: each row's experts and what they weigh
//   dealt   [row of expert]  a row for each expert of each row; those of one expert lie together
//   made    [row of expert]  → gather: each row's, weighed and added up in the order of its choice
//
// The experts of a layer lie as one linear would whose columns are those of one after the other, so
// that a panel belongs to one expert and is multiplied by the rows of that one alone.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "linear.hpp"
#include "program.hpp"
#include "space.hpp"
#include "threads.hpp"

namespace {

// Of equal scores the first counts; what is no number is never higher, and makes the weights none.
inline void choose(Space& space, int64_t r) {
    const Shape& shape = space.shape;
    const float* scores = space.row<float>(SCORES, r);
    Choice* chosen = &space.routes.choices[r * shape.chosen];
    for (int k = 0; k < shape.chosen; ++k) {
        int best = -1;
        for (int e = 0; e < shape.experts; ++e) {
            bool taken = false;
            for (int before = 0; before < k; ++before) taken |= chosen[before].expert == e;
            if (!taken && (best < 0 || scores[e] > scores[best])) best = e;
        }
        chosen[k].expert = best;
    }
    const float most = scores[chosen[0].expert];
    float mass = 0;
    if (shape.is_normalised)
        for (int k = 0; k < shape.chosen; ++k) mass += std::exp(scores[chosen[k].expert] - most);
    else
        for (int e = 0; e < shape.experts; ++e) mass += std::exp(scores[e] - most);
    for (int k = 0; k < shape.chosen; ++k)
        chosen[k].weight = std::exp(scores[chosen[k].expert] - most) / mass;
}

// Gives every choice its row among those that are dealt: by expert, then in the order of rows.
inline void sort_choices(Space& space) {
    Routes& routes = space.routes;
    const int64_t count = space.dealt_rows();
    std::fill(routes.ends.begin(), routes.ends.end(), 0);
    for (int64_t i = 0; i < count; ++i) ++routes.ends[routes.choices[i].expert];
    routes.present.clear();
    int64_t end = 0;
    for (int e = 0; e < space.shape.experts; ++e) {
        const int64_t begin = end;
        end += routes.ends[e];
        routes.ends[e] = begin;
        if (end > begin) routes.present.push_back(e);
    }
    for (int64_t i = 0; i < count; ++i) {
        const int64_t place = routes.ends[routes.choices[i].expert]++;
        routes.choices[i].place = place;
        routes.tables[place] = space.step.tables[i / space.shape.chosen];
    }
}

template <class T>
void deal(const Space& space, const Operation& op, int64_t r) {
    const size_t bytes = space.shape.hidden * sizeof(T);
    for (int k = 0; k < space.shape.chosen; ++k) {
        const int64_t place = space.routes.choices[r * space.shape.chosen + k].place;
        std::memcpy(space.row<T>(DEALT, place), space.row<T>(op.source, r), bytes);
    }
}

inline void gather(const Space& space, int64_t r) {
    const Shape& shape = space.shape;
    const Choice* chosen = &space.routes.choices[r * shape.chosen];
    float* out = space.row<float>(HIDDEN, r);
    const float* shared = space.row<float>(DELTA, r);
    const int gate = (shape.experts + LANES - 1) / LANES * LANES;
    float share = 0;
    if (shape.is_shared) share = 1.0f / (1.0f + std::exp(-space.row<float>(SCORES, r)[gate]));
    for (int i = 0; i < shape.hidden; i += LANES) {
        Floats sum = {};
        for (int k = 0; k < shape.chosen; ++k)
            sum += load(space.row<float>(MADE, chosen[k].place) + i) * chosen[k].weight;
        if (shape.is_shared) sum += load(shared + i) * share;
        store(out + i, load(out + i) + sum);
    }
}

// --- their linears ---

// Where panels lie that have rows: those of the experts that some row chose.
struct Present {
    const Space& space;
    const Operation& op;
    const int64_t each = op.num_panels / space.shape.experts;  // panels of one expert

    int64_t num_panels() const { return each * int64_t(space.routes.present.size()); }
    int expert(int64_t number) const { return space.routes.present[number / each]; }
    int64_t panel(int64_t number) const { return expert(number) * each + number % each; }
    int64_t first_row(int e) const { return e == 0 ? 0 : space.routes.ends[e - 1]; }
    int64_t end_row(int e) const { return space.routes.ends[e]; }
};

// Up to 32 rows from r on by one panel of whatever form, in float32.
template <class T>
void multiply_any(const Space& space, const Operation& op, int64_t panel, int64_t r, int rows,
                  const char* coming, float (&tile)[BLOCK_ROWS][PANEL]) {
    if (op.format == CODES) {
        const Codes codes(op);
        use_run_tiles(rows);
        const Ahead ahead{codes.panel(panel), coming, codes.panel_bytes};
        return multiply_codes(codes, byte_rows(space, r), rows, ahead, tile);
    }
    Asking asking;
    asking.ahead = coming;
    asking.lines = rows > SPARSE_ROWS ? ONE_A_PASS : EVERY_SECOND;
    for (auto& other : asking.other) other = nullptr;
    multiply<T>(space, op, panel, r, rows, asking, tile);
}

// What adapters change about each row that is dealt: all threads shrink, then meet.
template <class T>
const Change* adapt_experts(const Space& space, Barrier& barrier, const Operation& op,
                            const Present& present, int tid, std::vector<Change>& found) {
    const ExpertParts parts(op, present.each);
    int64_t unit = 0;
    if (int64_t(found.size()) < space.dealt_rows() * SITE_PARTS)
        found.resize(space.dealt_rows() * SITE_PARTS);
    for (int e : space.routes.present) {
        const int64_t first = present.first_row(e);
        const int64_t end = present.end_row(e);
        shrink_expert<T>(space, op, parts, e, first, end, tid, unit);
        find_expert_changes<T>(space, op, parts, e, first, end, found.data());
    }
    barrier.wait(space.shape.threads);
    return found.data();
}

// This thread's part of all experts that have rows; threads meet in between where rows must first be
// quantised or shrunk.
template <class T>
void run_experts(Space& space, Claims& claims, Barrier& barrier, const Operation& op, int tid,
                 LinearWork& own) {
    const int threads = space.shape.threads;
    const int64_t dealt = space.dealt_rows();
    if (op.format == INT8)
        for (int64_t r = tid; r < dealt; r += threads) quantise<T>(space, op, r);
    if (op.format == CODES)
        for (int64_t r = tid; r < dealt; r += threads) quantise_blocks<T>(space, op, r);
    if (op.format != PLAIN) barrier.wait(threads);
    const Present present{space, op};
    const Change* changes = nullptr;
    if (space.is_adapted(op))
        changes = adapt_experts<T>(space, barrier, op, present, tid, own.adapters.changes);
    const size_t at = space.index_of(op);
    const size_t panel_bytes = panel_bytes_of<T>(op);
    alignas(64) float tile[BLOCK_ROWS][PANEL];
    int64_t number = claims.next_panel(at, present.num_panels(), tid);
    while (number < present.num_panels()) {
        const int64_t after = claims.next_panel(at, present.num_panels(), tid);
        const int64_t panel = present.panel(number);
        const int64_t next = after < present.num_panels() ? present.panel(after) : panel;
        const char* coming = static_cast<const char*>(op.weight) + next * panel_bytes;
        const int64_t end = present.end_row(present.expert(number));
        for (int64_t r = present.first_row(present.expert(number)); r < end; r += BLOCK_ROWS) {
            const int count = int(std::min<int64_t>(BLOCK_ROWS, end - r));
            multiply_any<T>(space, op, panel, r, count, coming, tile);
            finish<T>(space, op, panel, r, count, changes, tile, own);
        }
        number = after;
    }
    if (op.format == CODES) use_linear_tiles();
}

}  // namespace

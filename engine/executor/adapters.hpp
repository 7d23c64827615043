// What adapters add to a linear: y = gain * W x + bias + shift + B (A x), each row with an adapter
// of its own or none.
// Decides which thread shrinks what. Knows how an adapter lies (engine/lora/layout.py), but not how
// the base is multiplied.
//
//   shrink  [rank][in]                              A, its rows padded to 32 numbers
//   expand  [block of 16 columns][rank / V][16][V]  B: one word of A x times one vector of it goes
//                                                   to 16 columns
//   shrunk  [row][words]                            A x of each part of the linear in turn, each
//                                                   from a whole word on: a part's *lanes*
//
// First all threads shrink, then they meet, then whoever multiplies a panel expands into it.

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "products.hpp"
#include "program.hpp"
#include "space.hpp"
#include "threads.hpp"
#include "words.hpp"

namespace {

constexpr int SHRINK_RANKS = 4;  // ranks that one pass over a row gives

// What a row's adapter does to one part, looked up once for all panels.
struct Change {
    const int32_t* expand;
    const int32_t* numbers;  // A x of this row
    const float* gain;
    const float* shift;
    int64_t lanes;
};

// What one thread's shrinking will read in the linear after this one, in the order in which it
// will, so that it can be asked for little by little.
struct Shrinks {
    struct Piece {
        const char* from;
        const char* to;
    };

    std::vector<Piece> pieces;
    size_t bytes = 0;
    size_t asked = 0;
    size_t piece = 0;

    void clear() {
        pieces.clear();
        bytes = 0;
        asked = 0;
        piece = 0;
    }

    void add(const char* from, size_t count) {
        if (count && !pieces.empty() && pieces.back().to == from) pieces.back().to += count;
        else if (count) pieces.push_back({from, from + count});
        bytes += count;
    }

    // The next of it, at most so many lines; null when it is not due before `until` bytes are.
    const char* take(size_t until, size_t lines) {
        if (piece == pieces.size() || asked >= until) return nullptr;
        Piece& next = pieces[piece];
        const char* from = next.from;
        size_t count = std::min<size_t>(next.to - from, lines * LINE);
        next.from += count;
        asked += count;
        if (next.from == next.to) ++piece;
        return from;
    }
};

// A thread's own, kept from step to step so that nothing is allocated in one.
struct AdapterWork {
    std::vector<Change> changes;  // [rows][SITE_PARTS]
    Shrinks shrinks;
    Deal deal;
};

template <class T>
int64_t lanes_of(const Entry& entry) {
    return (entry.rank + V<T> - 1) / V<T>;
}

inline const Entry& entry_of(const Entry* table, const Operation& op, int part) {
    return table[op.entry + part];
}

// A linear has a layer's parts from that of its first block up to this one.
inline int last_part_of(const Operation& op) {
    int last = op.blocks[0].part;
    for (int b = 0; b < 2 * op.num_panels; ++b)
        if (op.blocks[b].present) last = std::max(last, op.blocks[b].part);
    return last;
}

// --- who shrinks what ---

// Many adapters: each thread has its own, one stretch of memory after the other. Few: the threads
// share each one's ranks.
inline bool deals_out(const Space& space) {
    return space.step.num_segments > 2 * space.shape.threads;
}

// Calls take(segment, first row, rows) for what falls to this thread, up to 16 rows of a segment.
template <class Take>
void deal_out(const Space& space, const Operation& op, int tid, Deal& deal, Take take) {
    const int first_part = op.blocks[0].part;
    const int last_part = last_part_of(op);
    deal.begin(space.shape.threads);
    for (int64_t s = 0; s < space.step.num_segments; ++s) {
        const Segment& segment = space.step.segments[s];
        int64_t ranks = 0;
        for (int part = first_part; part <= last_part; ++part)
            ranks += entry_of(segment.table, op, part).rank;
        for (int64_t r = 0; r < segment.count; r += LANES) {
            int64_t rows = std::min<int64_t>(LANES, segment.count - r);
            if (deal.next(ranks * rows) == tid) take(segment, segment.first + r, rows);
        }
    }
}

// What this thread will shrink with in the linear after `op`.
template <class T>
void list_shrinks(const Space& space, const Operation& op, int tid, AdapterWork& own) {
    own.shrinks.clear();
    const Operation& next = space.linear_after(op);
    const bool is_in_this_step = &next > &op;
    if (next.entry < 0 || !is_in_this_step || !deals_out(space)) return;
    const int first_part = next.blocks[0].part;
    const int last_part = last_part_of(next);
    const size_t rank_bytes = size_t(next.width_in + 31) / 32 * 32 * sizeof(T);
    deal_out(space, next, tid, own.deal, [&](const Segment& segment, int64_t, int64_t) {
        for (int part = first_part; part <= last_part; ++part) {
            const Entry& entry = entry_of(segment.table, next, part);
            own.shrinks.add(entry.shrink, entry.rank * rank_bytes);
        }
    });
}

// --- the first half: A x ---

// Up to four ranks of a part, from `rank` on, for some rows of one adapter.
template <class T>
void shrink_rows(const Space& space, const Operation& op, const Entry& entry, int64_t row_first,
                 int64_t rows, int64_t rank, int64_t lane) {
    const int words = (op.width_in + 31) / 32 * 32 / V<T>;
    const int64_t ranks = std::min<int64_t>(SHRINK_RANKS, entry.rank - rank);
    const int32_t* a[SHRINK_RANKS];
    // Where there are fewer the last counts several times: always the same code, so the same bits.
    for (int64_t i = 0; i < SHRINK_RANKS; ++i)
        a[i] = reinterpret_cast<const int32_t*>(entry.shrink) +
               (rank + std::min(i, ranks - 1)) * words;
    for (int64_t r = 0; r < rows; ++r) {
        const char* x = space.places[op.source].row(row_first + r);
        Floats sum[SHRINK_RANKS] = {};
        for (int w = 0; w < words; w += LANES) {
            const Words xs = load_words(x + w * 4);
            // The four ranks after these, while the first row has memory to itself.
            if (r == 0)
                for (int i = 0; i < SHRINK_RANKS; ++i) prefetch(a[i] + w + SHRINK_RANKS * words);
            for (int i = 0; i < SHRINK_RANKS; ++i)
                sum[i] = madd(sum[i], load_words(a[i] + w), xs, T{});
        }
        T* out = reinterpret_cast<T*>(space.shrunk.row(row_first + r) + lane * 4) + rank;
        for (int64_t i = 0; i < ranks; ++i) put_one(out + i, total(sum[i]));
        // The last one of an odd rank shares its word with nothing.
        if (rank + ranks == entry.rank && entry.rank % V<T>) put_one(out + ranks, 0.0f);
    }
}

template <class T>
void shrink_dealt(const Space& space, const Operation& op, int tid, Deal& deal) {
    const int first_part = op.blocks[0].part;
    const int last_part = last_part_of(op);
    deal_out(space, op, tid, deal, [&](const Segment& segment, int64_t row_first, int64_t rows) {
        int64_t lane = 0;
        for (int part = first_part; part <= last_part; ++part) {
            const Entry& entry = entry_of(segment.table, op, part);
            for (int64_t rank = 0; rank < entry.rank; rank += SHRINK_RANKS)
                shrink_rows<T>(space, op, entry, row_first, rows, rank, lane);
            lane += lanes_of<T>(entry);
        }
    });
}

template <class T>
void shrink_shared(const Space& space, const Operation& op, int tid) {
    const int first_part = op.blocks[0].part;
    const int last_part = last_part_of(op);
    int64_t unit = 0;
    for (int64_t s = 0; s < space.step.num_segments; ++s) {
        const Segment& segment = space.step.segments[s];
        int64_t lane = 0;
        for (int part = first_part; part <= last_part; ++part) {
            const Entry& entry = entry_of(segment.table, op, part);
            for (int64_t r = 0; r < segment.count; r += LANES) {
                int64_t rows = std::min<int64_t>(LANES, segment.count - r);
                for (int64_t rank = 0; rank < entry.rank; rank += SHRINK_RANKS)
                    if (unit++ % space.shape.threads == tid)
                        shrink_rows<T>(space, op, entry, segment.first + r, rows, rank, lane);
            }
            lane += lanes_of<T>(entry);
        }
    }
}

// This thread's part of A x for all parts of the linear.
template <class T>
void shrink(const Space& space, const Operation& op, int tid, AdapterWork& own) {
    if (deals_out(space)) shrink_dealt<T>(space, op, tid, own.deal);
    else shrink_shared<T>(space, op, tid);
}

// --- the second half: B (A x) ---

// Of each row and each part of the linear; all zero for the bare base.
template <class T>
const Change* find_changes(const Space& space, const Operation& op, int64_t rows,
                           std::vector<Change>& found) {
    const int first_part = op.blocks[0].part;
    if (int64_t(found.size()) < rows * SITE_PARTS) found.resize(rows * SITE_PARTS);
    for (int64_t r = 0; r < rows; ++r) {
        const Entry* table = space.step.tables[r];
        auto* numbers = reinterpret_cast<const int32_t*>(space.shrunk.row(r));
        // Entries of norms follow those of all linears, so that there are always so many.
        for (int p = 0; p < SITE_PARTS; ++p) {
            Change& change = found[r * SITE_PARTS + p];
            change = Change{};
            if (!table) continue;
            const Entry& entry = entry_of(table, op, first_part + p);
            const int64_t lanes = lanes_of<T>(entry);
            auto* expand = reinterpret_cast<const int32_t*>(entry.expand);
            change = {expand, numbers, entry.gain, entry.shift, lanes};
            numbers += lanes;
        }
    }
    return found.data();
}

// --- experts: rows are those that are dealt ---

// What an adapter does to one part of each expert: that of expert e begins e steps after the first.
template <class T>
struct ExpertEntry {
    Entry first;
    int64_t shrink_step;  // in bytes
    int64_t expand_step;

    // `blocks`: of 16 columns in one expert's part.
    ExpertEntry(const Entry& entry, const Operation& op, int64_t blocks)
        : first(entry),
          shrink_step(entry.rank * ((op.width_in + 31) / 32 * 32) * int64_t(sizeof(T))),
          expand_step(blocks * lanes_of<T>(entry) * LANES * 4) {}

    Entry of(int64_t e) const {
        if (!first.rank) return Entry{};
        return {first.rank, first.shrink + e * shrink_step, first.expand + e * expand_step, nullptr,
                nullptr};
    }
};

// The parts of one expert's linear, and the blocks of each.
struct ExpertParts {
    int count = 0;
    int64_t blocks[SITE_PARTS] = {};

    ExpertParts(const Operation& op, int64_t num_panels) {
        for (int64_t b = 0; b < 2 * num_panels; ++b) {
            if (!op.blocks[b].present) continue;
            count = std::max(count, op.blocks[b].part + 1);
            ++blocks[op.blocks[b].part];
        }
    }
};

// This thread's part of A x for the rows of one expert, `unit` on from those before: rows of one
// adapter lie together.
template <class T>
void shrink_expert(const Space& space, const Operation& op, const ExpertParts& parts, int e,
                   int64_t row, int64_t end, int tid, int64_t& unit) {
    const Entry* const* tables = space.routes.tables.data();
    while (row < end) {
        const int64_t first = row;
        const Entry* table = tables[first];
        while (row < end && row - first < LANES && tables[row] == table) ++row;
        if (!table) continue;
        int64_t lane = 0;
        for (int part = 0; part < parts.count; ++part) {
            const Entry entry =
                ExpertEntry<T>(entry_of(table, op, part), op, parts.blocks[part]).of(e);
            for (int64_t rank = 0; rank < entry.rank; rank += SHRINK_RANKS)
                if (unit++ % space.shape.threads == tid)
                    shrink_rows<T>(space, op, entry, first, row - first, rank, lane);
            lane += lanes_of<T>(entry);
        }
    }
}

// Of each row of one expert and each part of its linear, into `found`.
template <class T>
void find_expert_changes(const Space& space, const Operation& op, const ExpertParts& parts, int e,
                         int64_t row, int64_t end, Change* found) {
    for (; row < end; ++row) {
        const Entry* table = space.routes.tables[row];
        auto* numbers = reinterpret_cast<const int32_t*>(space.shrunk.row(row));
        for (int p = 0; p < SITE_PARTS; ++p) {
            Change& change = found[row * SITE_PARTS + p];
            change = Change{};
            if (!table || p >= parts.count) continue;
            const Entry entry = ExpertEntry<T>(entry_of(table, op, p), op, parts.blocks[p]).of(e);
            const int64_t lanes = lanes_of<T>(entry);
            change = {reinterpret_cast<const int32_t*>(entry.expand), numbers, nullptr, nullptr,
                      lanes};
            numbers += lanes;
        }
    }
}

// Each row may have an adapter of its own, somewhere else in memory: adds the lines of `expand`
// that a panel needs to what is asked for, once for rows of one adapter that follow one another.
inline void list_expand(const Operation& op, int64_t panel, const Change* of_rows, int rows,
                        Asking& asking) {
    for (int h = 0; h < 2; ++h) {
        const Block& block = op.blocks[2 * panel + h];
        const int32_t* seen = nullptr;
        for (int i = 0; i < rows; ++i) {
            const Change& change = of_rows[i * SITE_PARTS + block.part - op.blocks[0].part];
            if (change.expand == seen) continue;
            seen = change.expand;
            const int32_t* at = seen + block.index * change.lanes * LANES;
            for (int64_t k = 0; k < std::min<int64_t>(change.lanes, LANES); ++k)
                asking.listed[asking.count++] = reinterpret_cast<const char*>(at + k * LANES);
        }
    }
}

// The base's product of one row and block → what this row's adapter makes of it.
template <class T>
Floats adapt(const Operation& op, const Change* of_row, int64_t number, Floats sum) {
    const Block& block = op.blocks[number];
    const Change& change = of_row[block.part - op.blocks[0].part];
    if (!block.present) return sum;
    if (change.gain) sum *= load(change.gain + block.index * LANES);
    if (op.second) sum += load(op.second + number * LANES);
    if (change.shift) sum += load(change.shift + block.index * LANES);
    const int32_t* expand = change.expand + block.index * change.lanes * LANES;
    for (int64_t k = 0; k < change.lanes; ++k)
        sum = madd(sum, load_words(expand + k * LANES), spread(change.numbers[k]), T{});
    return sum;
}

}  // namespace

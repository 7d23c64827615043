// The memory that a step passes through: one buffer for each place of the program, and what the
// operations leave for one another beside them.
// Decides how large each is and how its rows lie. Knows no operation.

#pragma once

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

#include "program.hpp"

namespace {

constexpr int BLOCK_ROWS = 32;  // rows that are multiplied together; places have whole blocks
constexpr size_t LINE = 64;     // bytes that memory moves at a time

struct Buffer {
    char* data = nullptr;
    size_t stride = 0;
    size_t size = 0;

    Buffer() = default;
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer() { std::free(data); }

    // Room for so many rows, zero where it is new. `guard` bytes lie between rows: with one line
    // more, rows of 4096 bytes do not all fall into the same set of a cache.
    void reserve(size_t rows, size_t row_bytes, size_t guard) {
        size_t next = (row_bytes + LINE - 1) / LINE * LINE + guard;
        size_t needed = std::max<size_t>(LINE, next * rows);
        if (next == stride && needed <= size) return;
        std::free(data);
        stride = next;
        size = needed;
        data = static_cast<char*>(std::aligned_alloc(LINE, size));
        if (!data) {
            size = 0;
            throw std::bad_alloc();
        }
        std::memset(data, 0, size);
    }

    char* row(int64_t index) const { return data + stride * index; }
};

// One of the experts that a row passes.
struct Choice {
    int32_t expert;
    float weight;
    int64_t place;  // the row among those that are dealt
};

// Which experts the rows of a step pass in one layer.
struct Routes {
    std::vector<Choice> choices;   // [rows][chosen]
    std::vector<int64_t> ends;     // where each expert's rows end
    std::vector<int32_t> present;  // the experts that have any
    std::vector<const Entry*> tables;  // of each of those dealt, its adapter's; null: the bare base
};

struct Space {
    Shape shape;
    std::vector<Operation> program;
    Step step{};
    Buffer places[NUM_PLACES];      // LOGITS has none: the step says where they go
    Buffer quantised;               // a linear's source as bytes around 128
    std::vector<float> row_scales;  // of each of its rows
    Buffer block_scales;            // beside weights in 4 bits: of each block of its rows,
    Buffer group_sums;              // and the sums of each group
    Routes routes;
    Buffer shrunk;                  // what adapters make of each row, before they expand it again

    Space(const Shape& s, const Operation* operations, int count)
        : shape(s), program(operations, operations + count) {}

    // Sums stay in float32; what is multiplied next has the dtype.
    template <class T>
    static size_t number_bytes(int place) {
        bool wide = place == HIDDEN || place == QKV || place == PICKED || place == DELTA ||
                    place == SCORES || place == MADE || place == LOGITS;
        return wide ? 4 : sizeof(T);
    }

    // Room for the step, in whole blocks of rows: products always read and write those.
    template <class T>
    void reserve() {
        int64_t rows = std::max(step.rows, step.num_picked);
        rows = (rows + BLOCK_ROWS - 1) / BLOCK_ROWS * BLOCK_ROWS;
        // an expert's rows begin anywhere, so that a block of them may end that much later
        const int64_t dealt = shape.experts ? dealt_rows() + BLOCK_ROWS : 0;
        int64_t widest = 0;
        for (int place = 0; place < LOGITS; ++place) {
            const int64_t these = is_dealt(place) ? dealt : rows;
            places[place].reserve(these, shape.widths[place] * number_bytes<T>(place), LINE);
            widest = std::max(widest, shape.widths[place]);
        }
        rows = std::max(rows, dealt);
        routes.choices.resize(dealt_rows());
        routes.tables.resize(dealt_rows());
        routes.ends.resize(shape.experts);
        const int64_t blocks = (widest + ROW_BLOCK - 1) / ROW_BLOCK;
        quantised.reserve(rows, blocks * ROW_BLOCK, LINE);
        block_scales.reserve(rows, blocks * 4, 0);
        group_sums.reserve(rows, blocks * ROW_BLOCK / 32 * 4, LINE);
        shrunk.reserve(rows, std::max<int64_t>(1, step.shrunk_words) * 4, 0);
        if (int64_t(row_scales.size()) < rows) row_scales.resize(rows);
    }

    template <class T>
    T* row(int place, int64_t index) const {
        return reinterpret_cast<T*>(places[place].row(index));
    }

    static bool is_dealt(int place) { return place == DEALT || place == FOLDED || place == MADE; }

    int64_t dealt_rows() const { return step.rows * shape.chosen; }

    int64_t rows_of(int place) const {
        return place == FINAL || place == PICKED ? step.num_picked : step.rows;
    }

    bool is_adapted(const Operation& op) const { return step.num_segments && op.entry >= 0; }

    size_t index_of(const Operation& op) const { return &op - program.data(); }

    // The linear that follows; after the last, the first again.
    const Operation& linear_after(const Operation& op) const {
        size_t at = index_of(op);
        do at = (at + 1) % program.size();
        while (program[at].kind != LINEAR);
        return program[at];
    }
};

}  // namespace

// What Python describes: the program of operations, the model's shape, and one step.
// Decides nothing. The structures are those of native.py, field by field: whoever changes one
// changes both. Layouts of what the addresses lead to are told where they are read.

#pragma once

#include <cstdint>

namespace {

constexpr int PANEL = 32;       // columns of a linear that are multiplied together: two blocks
constexpr int PAGE = 16;        // tokens
constexpr int ROW_BLOCK = 128;  // inputs of a row that share a scale, beside weights in 4 bits
constexpr int SITE_PARTS = 3;   // the most of them that are fused into one linear: q, k, v
constexpr int MAX_HEAD_DIM = 256;

enum Kind : int32_t {
    EMBED,
    NORM,
    LINEAR,
    NORM_HEADS,
    ROTATE,
    STORE,
    ATTEND,
    PICK,
    CHOOSE,
    DEAL,
    EXPERTS,
    GATHER
};
enum Format : int32_t { PLAIN, INT8, CODES };  // of a linear's weights
enum Ending : int32_t { WRITE, ADD, SWIGLU, GEGLU, CLAMPED };
enum Place : int32_t {
    HIDDEN,
    NORMED,
    QKV,
    MIXED,
    GATED,
    PICKED,
    FINAL,
    DELTA,
    SCORES,
    SHARED,
    DEALT,
    FOLDED,
    MADE,
    LOGITS,
    NUM_PLACES
};

// 16 columns of a linear as they lie packed.
struct Block {
    int32_t part;     // whose they are
    int32_t index;    // which 16 of that part's
    int32_t column;   // where they go
    int32_t present;  // 0: padding at the end of the last panel
};

struct Operation {
    int32_t kind;
    int32_t layer;  // -1: of none
    int32_t source;
    int32_t target;
    int32_t ending;
    int32_t width_in;
    int32_t num_panels;
    int32_t format;
    float eps;
    int32_t has_offsets;  // CODES: else they are all -8 times the scale
    float factor;    // EMBED: of each number; ATTEND: of each score; CLAMPED: of the sigmoid's
    float cap;       // ATTEND: scores are bent to within it; 0: they are not; CLAMPED: of both halves
    int32_t window;  // ATTEND: how many tokens a token sees, itself among them; 0: all
    int32_t entry;   // the adapters' for it (model/entries.py): LINEAR, EXPERTS: of a part 0 of its
                     // blocks; NORM_HEADS: of the queries', the keys' next; -1: none
    const void* weight;     // ROTATE: cosines, [position][head_dim / 2]
    const float* second;    // NORM_HEADS: the keys' weight; LINEAR: bias by packed column, or null;
                            // ROTATE: sines; ATTEND: each head's sink, or null
    const float* scale;     // int8: per packed column
    const int32_t* offset;  // int8: 128 * sum of the column
    const Block* blocks;
};

struct Shape {
    int32_t dtype;  // of activations and keys: 0 float32, 1 bfloat16
    int32_t threads;
    int32_t hidden;
    int32_t heads;
    int32_t kv_heads;
    int32_t head_dim;
    int32_t query_column;
    int32_t key_column;
    int32_t value_column;
    int32_t vocab;
    int32_t experts;  // of a layer that has any
    int32_t chosen;   // of them for each row
    int32_t is_normalised;  // their weights come to 1
    int32_t is_shared;      // every row passes one more
    int64_t widths[NUM_PLACES];  // columns of each place, padded

    int number_bytes() const { return dtype == 0 ? 4 : 2; }
};

// What an adapter does to one part (engine/lora/layout.py says how it lies); of one that each expert
// has, where those of the first lie.
struct Entry {
    int64_t rank;
    const char* shrink;
    const char* expand;
    const float* gain;   // null: 1
    const float* shift;  // null: 0
};

// Rows that follow one another and have the same adapter.
struct Segment {
    const Entry* table;  // in the order of engine/model/entries.py; norms last, whose gain counts
    int64_t first;
    int64_t count;
};

// Rows that follow one another in one sequence.
struct Chunk {
    const int32_t* pages;  // of the sequence, from its beginning
    int64_t row;
    int64_t count;
    int64_t start;  // position of the first
};

struct Step {
    int64_t rows;
    int64_t num_segments;
    int64_t num_chunks;
    int64_t num_picked;
    int64_t layer_stride;  // of the pool, in numbers
    int64_t half_stride;   // of one head's keys or values, in numbers
    int64_t shrunk_words;  // the most of any row and linear
    const int64_t* tokens;
    const int64_t* positions;
    const int64_t* cells;
    const Entry* const* tables;  // per row; null: the bare base
    const Segment* segments;     // of adapters only
    const Chunk* chunks;
    const int64_t* picked;
    char* pool;
    const float* embedded;  // [rows][hidden], or null: look up
    float* logits;          // [num_picked][widths[LOGITS]]
    char* final;            // [num_picked][hidden] numbers of the dtype
    int64_t* best;          // [num_picked]: the lowest id of the highest logit
    uint8_t* finite;        // [num_picked]: whether every logit is
};

}  // namespace

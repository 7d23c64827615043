// Operations that look at one row alone: looking tokens up, normalising, rotating, picking.
// Decides nothing; knows no other row and no thread.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "codes.hpp"
#include "program.hpp"
#include "space.hpp"
#include "words.hpp"

namespace {

// Row `token` of a table in 4 bits, which lies as a linear's weights do (codes.hpp).
inline void embed_codes(const Operation& op, int64_t token, float* out) {
    const Codes codes(op);
    const int column = int(token % PANEL);
    const char* group = codes.panel(token / PANEL);
    for (int g = 0; g < codes.groups; ++g, group += codes.group_bytes) {
        const char* scales = codes.scales(group) + 2 * column;
        const float scale = half_one(scales);
        const float offset = codes.has_offsets ? half_one(scales + SCALES_BYTES) : -MIDDLE * scale;
        const char* at = group + column / LANES * (CODES_BYTES / 2) + column % LANES * 4;
        for (int l = 0; l < GROUP / 8; ++l, out += 8)
            for (int i = 0; i < 4; ++i) {
                const auto both = uint8_t(at[l * LINE + i] ^ 0x88);
                out[i] = scale * float(both & 15) + offset;
                out[i + 4] = scale * float(both >> 4) + offset;
            }
    }
}

// Row `token` of a table in int8, which lies as a linear's weights do.
inline void embed_int8(const Operation& op, int64_t token, int hidden, float* out) {
    const int words = (hidden + 63) / 64 * 16;
    const auto* panel = static_cast<const int8_t*>(op.weight) + token / PANEL * words * PANEL * 4;
    const float scale = op.scale[token];
    for (int i = 0; i < hidden; ++i)
        out[i] = scale * float(panel[(i / 4 * PANEL + token % PANEL) * 4 + i % 4]);
}

template <class T>
void embed(const Space& space, const Operation& op, int64_t r) {
    const int hidden = space.shape.hidden;
    float* out = space.row<float>(HIDDEN, r);
    if (space.step.embedded) {
        const float* in = space.step.embedded + r * hidden;
        for (int i = 0; i < hidden; ++i) out[i] = in[i] * op.factor;
        return;
    }
    const int64_t token = space.step.tokens[r];
    if (op.format != PLAIN) {
        if (op.format == CODES) embed_codes(op, token, out);
        else embed_int8(op, token, hidden, out);
        for (int i = 0; i < hidden; ++i) out[i] *= op.factor;
        return;
    }
    const T* in = static_cast<const T*>(op.weight) + token * hidden;
    int i = 0;
    for (; i + LANES <= hidden; i += LANES) store(out + i, get(in + i) * op.factor);
    for (; i < hidden; ++i) out[i] = get_one(in + i) * op.factor;
}

// One over the root mean square of a row.
inline float norm_factor(const float* in, int width, float eps) {
    Floats squares[2] = {};
    int i = 0;
    for (; i + 2 * LANES <= width; i += 2 * LANES)
        for (int h = 0; h < 2; ++h) {
            const Floats x = load(in + i + h * LANES);
            squares[h] += x * x;
        }
    float sum = total(squares[0] + squares[1]);
    for (int j = i; j < width; ++j) sum += in[j] * in[j];
    return 1.0f / std::sqrt(sum / float(width) + eps);
}

// `in` times `weight` over its root mean square.
template <class T>
void norm_one(const float* in, const float* weight, int width, float eps, T* out) {
    const float factor = norm_factor(in, width, eps);
    int i = 0;
    for (; i + LANES <= width; i += LANES)
        put(out + i, load(in + i) * factor * load(weight + i));
    for (; i < width; ++i) put_one(out + i, in[i] * factor * weight[i]);
}

// The same, times `gain` of an adapter.
template <class T>
void norm_adapted(const float* in, const float* weight, const float* gain, int width, float eps,
                  T* out) {
    const float factor = norm_factor(in, width, eps);
    int i = 0;
    for (; i + LANES <= width; i += LANES)
        put(out + i, load(in + i) * factor * load(weight + i) * load(gain + i));
    for (; i < width; ++i) put_one(out + i, in[i] * factor * weight[i] * gain[i]);
}

// The one or the other: `gain` is null where no adapter changes the norm.
template <class T>
void norm_either(const float* in, const float* weight, const float* gain, int width, float eps,
                 T* out) {
    if (gain) norm_adapted(in, weight, gain, width, eps, out);
    else norm_one(in, weight, width, eps, out);
}

// By what this row's adapter multiplies a norm, or that so many after it; null: by nothing.
inline const float* gain_of(const Space& space, const Operation& op, int64_t r, int after = 0) {
    if (op.entry < 0 || !space.step.num_segments) return nullptr;
    const Entry* table = space.step.tables[op.source == PICKED ? space.step.picked[r] : r];
    return table ? table[op.entry + after].gain : nullptr;
}

// What is normalised is added to a row of the stream, before anything else reads it.
inline void add_norm(const Space& space, const Operation& op, int64_t r) {
    const float* in = space.row<float>(op.source, r);
    const float* weight = static_cast<const float*>(op.weight);
    const float* gain = gain_of(space, op, r);
    const float factor = norm_factor(in, op.width_in, op.eps);
    float* out = space.row<float>(op.target, r);
    for (int i = 0; i < op.width_in; ++i)
        out[i] += in[i] * factor * weight[i] * (gain ? gain[i] : 1.0f);
}

template <class T>
void norm(const Space& space, const Operation& op, int64_t r) {
    if (op.ending == ADD) return add_norm(space, op, r);
    const float* in = space.row<float>(op.source, r);
    const float* weight = static_cast<const float*>(op.weight);
    norm_either(in, weight, gain_of(space, op, r), op.width_in, op.eps, space.row<T>(op.target, r));
}

// Each head of queries and keys by itself; the entry of the keys' norm follows the queries'.
inline void norm_heads(const Space& space, const Operation& op, int64_t r) {
    const Shape& shape = space.shape;
    const int d = shape.head_dim;
    const float* weight = static_cast<const float*>(op.weight);
    const float* query_gain = gain_of(space, op, r);
    const float* key_gain = gain_of(space, op, r, 1);
    float* query = space.row<float>(QKV, r) + shape.query_column;
    float* key = space.row<float>(QKV, r) + shape.key_column;
    for (int h = 0; h < shape.heads; ++h, query += d)
        norm_either(query, weight, query_gain, d, op.eps, query);
    for (int h = 0; h < shape.kv_heads; ++h, key += d)
        norm_either(key, op.second, key_gain, d, op.eps, key);
}

// One head: number i and number i + half are turned by the angle that their position gives.
inline void rotate_one(float* first, int half, const float* cosine, const float* sine) {
    float* second = first + half;
    int i = 0;
    for (; i + LANES <= half; i += LANES) {
        const Floats a = load(first + i);
        const Floats b = load(second + i);
        const Floats c = load(cosine + i);
        const Floats s = load(sine + i);
        store(first + i, a * c - b * s);
        store(second + i, b * c + a * s);
    }
    for (; i < half; ++i) {
        const float a = first[i];
        const float b = second[i];
        first[i] = a * cosine[i] - b * sine[i];
        second[i] = b * cosine[i] + a * sine[i];
    }
}

inline void rotate(const Space& space, const Operation& op, int64_t r) {
    const Shape& shape = space.shape;
    const int half = shape.head_dim / 2;
    const int64_t at = space.step.positions[r] * half;
    const float* cosine = static_cast<const float*>(op.weight) + at;
    const float* sine = op.second + at;
    float* query = space.row<float>(QKV, r) + shape.query_column;
    float* key = space.row<float>(QKV, r) + shape.key_column;
    for (int h = 0; h < shape.heads; ++h)
        rotate_one(query + h * shape.head_dim, half, cosine, sine);
    for (int h = 0; h < shape.kv_heads; ++h)
        rotate_one(key + h * shape.head_dim, half, cosine, sine);
}

inline void pick(const Space& space, int64_t r) {
    const float* in = space.row<float>(HIDDEN, space.step.picked[r]);
    std::memcpy(space.row<float>(PICKED, r), in, space.shape.hidden * 4);
}

}  // namespace

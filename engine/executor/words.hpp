// Sixteen words at a time: how numbers are loaded, stored, converted and multiplied.
// Decides which instruction does it, of those that the compiler was told the processor has. Knows
// no model, no rows, no threads.
//
//   word   32 bits: one float, or two bfloat16, or four int8; V numbers. All weights lie so that
//          16 words make one vector.
//   madd   sums += words * words, number by number: the one operation behind products, adapters and
//          attention.
//
// Vectors are the compiler's own (vector_size), so one text serves every instruction set; without
// AVX-512 it makes two halves of each. Intrinsics stand only where an instruction does more than an
// operator can say.

#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace {

constexpr int LANES = 16;

typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Words __attribute__((vector_size(64)));
typedef float LooseFloats __attribute__((vector_size(64), aligned(4)));
typedef int32_t LooseWords __attribute__((vector_size(64), aligned(4)));

struct Bf16 {
    uint16_t bits;
};

struct Int8 {
    uint8_t bits;
};

// Numbers in one word.
template <class T>
constexpr int V = 4 / sizeof(T);

// What products of T are summed in: int8 exactly, the others in float32.
template <class T>
using Sum = std::conditional_t<std::is_same_v<T, Int8>, int32_t, float>;
template <class T>
using Sums = std::conditional_t<std::is_same_v<T, Int8>, Words, Floats>;

// --- vectors ---

inline Floats load(const void* at) { return *static_cast<const LooseFloats*>(at); }
inline Words load_words(const void* at) { return *static_cast<const LooseWords*>(at); }
inline void store(void* at, Floats value) { *static_cast<LooseFloats*>(at) = value; }
inline void store(void* at, Words value) { *static_cast<LooseWords*>(at) = value; }
inline Floats load_sums(const float* at) { return load(at); }
inline Words load_sums(const int32_t* at) { return load_words(at); }
inline Floats spread(float value) { return value - Floats{}; }
inline Words spread(int32_t value) { return value - Words{}; }
inline Words lane_numbers() { return Words{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}; }

// Both ways in one order, halves onto halves, so that float32 has the same bits on every processor.
inline float total(Floats x) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)x);
#else
    float half[8];
    float quarter[4];
    for (int i = 0; i < 8; ++i) half[i] = x[i] + x[i + 8];
    for (int i = 0; i < 4; ++i) quarter[i] = half[i] + half[i + 4];
    return (quarter[0] + quarter[2]) + (quarter[1] + quarter[3]);
#endif
}

inline float largest(Floats x) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps((__m512)x);
#else
    float most = x[0];
    for (int i = 1; i < LANES; ++i) most = std::max(most, x[i]);
    return most;
#endif
}

// e^x to about 2 ulp: 2^n * 2^f with |f| <= 1/2, f by a polynomial (Cephes' expf).
inline Floats exponential(Floats x) {
    x = x > 88.0f ? spread(88.0f) : x;
    x = x < -87.0f ? spread(-87.0f) : x;
    Floats scaled = x * 1.44269504088896341f;
    Floats half = scaled < 0 ? spread(-0.5f) : spread(0.5f);
    Words n = __builtin_convertvector(scaled + half, Words);
    Floats whole = __builtin_convertvector(n, Floats);
    // ln 2 in two parts: n times the first is exact, so nothing is lost where x and n ln 2 cancel.
    Floats f = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
    Floats p = spread(1.9875691500e-4f);
    p = p * f + 1.3981999507e-3f;
    p = p * f + 8.3334519073e-3f;
    p = p * f + 4.1665795894e-2f;
    p = p * f + 1.6666665459e-1f;
    p = p * f + 5.0000001201e-1f;
    p = p * f * f + f + 1.0f;
    return p * (Floats)((n + 127) << 23);
}

// tanh x to about 2 ulp: by a polynomial near 0 (Cephes' tanhf), by e^x elsewhere.
inline Floats hyperbolic_tangent(Floats x) {
    const Floats size = x < 0 ? -x : x;
    const Floats z = x * x;
    Floats p = spread(-5.70498872745e-3f);
    p = p * z + 2.06390887954e-2f;
    p = p * z - 5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z - 3.33332819422e-1f;
    const Floats far = 1.0f - 2.0f / (exponential(size + size) + 1.0f);
    return size < 0.625f ? p * z * x + x : (x < 0 ? -far : far);
}

// --- the product ---

// a * b + c with one rounding, whatever the compiler would make of the operators.
inline Floats fused(Floats a, Floats b, Floats c) {
#if defined(__AVX512F__)
    return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#else
    Floats out;
    for (int i = 0; i < 2; ++i) {
        const __m256 part = _mm256_fmadd_ps(reinterpret_cast<const __m256*>(&a)[i],
                                            reinterpret_cast<const __m256*>(&b)[i],
                                            reinterpret_cast<const __m256*>(&c)[i]);
        reinterpret_cast<__m256*>(&out)[i] = part;
    }
    return out;
#endif
}

inline Floats madd(Floats sum, Words w, Words x, float) { return sum + (Floats)w * (Floats)x; }

inline Floats madd(Floats sum, Words w, Words x, Bf16) {
#if defined(__AVX512BF16__)
    return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)w, (__m512bh)x);
#else
    const Words upper = spread(int32_t(0xffff0000));  // a bfloat16 is the upper half of a float
    sum += (Floats)(w << 16) * (Floats)(x << 16);
    return sum + (Floats)(w & upper) * (Floats)(x & upper);
#endif
}

// Four signed w times four unsigned x, which is how the instruction has it: hence activations are
// kept around 128, and the weights' sums times 128 are taken off again afterwards.
inline Words madd(Words sum, Words w, Words x, Int8) {
#if defined(__AVX512VNNI__)
    return (Words)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)x, (__m512i)w);
#else
    for (int shift = 0; shift < 32; shift += 8)
        sum += ((w << (24 - shift)) >> 24) * ((x >> shift) & 255);
    return sum;
#endif
}

// --- from one dtype to another: 16 numbers, or one ---

// To the nearest, ties to even; a NaN stays one.
inline uint16_t round_bf16(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return uint16_t((bits >> 16) | 64);
    return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline void put(float* at, Floats x) { store(at, x); }
inline void put(Bf16* at, Floats x) {
#if defined(__AVX512BF16__)
    __m256i narrow = (__m256i)_mm512_cvtneps_pbh((__m512)x);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), narrow);
#else
    for (int i = 0; i < LANES; ++i) at[i].bits = round_bf16(x[i]);
#endif
}
inline void put_one(float* at, float x) { *at = x; }
inline void put_one(Bf16* at, float x) { at->bits = round_bf16(x); }

inline Floats get(const float* at) { return load(at); }
inline Floats get(const Bf16* at) {
#if defined(__AVX512F__)
    __m256i narrow = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
    return (Floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 16);
#else
    Words wide;
    for (int i = 0; i < LANES; ++i) wide[i] = int32_t(uint32_t(at[i].bits) << 16);
    return (Floats)wide;
#endif
}
inline float get_one(const float* at) { return *at; }
inline float get_one(const Bf16* at) {
    uint32_t bits = uint32_t(at->bits) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

// 16 numbers in float16.
inline Floats get_half(const void* at) {
#if defined(__AVX512F__)
    return (Floats)_mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(at)));
#else
    const auto* halves = static_cast<const __m128i*>(at);
    Floats wide;
    for (int i = 0; i < 2; ++i) {
        const __m256 part = _mm256_cvtph_ps(_mm_loadu_si128(halves + i));
        std::memcpy(reinterpret_cast<char*>(&wide) + 32 * i, &part, 32);
    }
    return wide;
#endif
}

inline float half_one(const void* at) {
    uint16_t bits;
    std::memcpy(&bits, at, 2);
    return _cvtsh_ss(bits);
}

// Whole numbers, to bytes.
inline void put_bytes(uint8_t* at, Words x) {
#if defined(__AVX512F__)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(at), _mm512_cvtepi32_epi8((__m512i)x));
#else
    for (int i = 0; i < LANES; ++i) at[i] = uint8_t(x[i]);
#endif
}

// Word `index` of some numbers, whatever they are.
inline int32_t word(const void* numbers, int index) {
    int32_t bits;
    std::memcpy(&bits, static_cast<const char*>(numbers) + index * 4, 4);
    return bits;
}

// --- asking for memory before it is needed ---

// One line, into the second-level cache: as much as a panel comes in ahead of time, and the first
// level is for what is multiplied now.
inline void prefetch(const void* at) { _mm_prefetch(static_cast<const char*>(at), _MM_HINT_T1); }

// One line into the first level: wanted at once.
inline void prefetch_near(const void* at) {
    _mm_prefetch(static_cast<const char*>(at), _MM_HINT_T0);
}

}  // namespace

// Tile registers (AMX): how they are set up, and the product of 32 rows by 32 columns.
// Decides which register holds what. Knows no program and no threads; empty where the processor has
// none.
//
//             w 6    w 7        16 rows of 64 bytes each: 16 x 16 sums, or 16 words of 16 rows or
//      x 4     0      1         columns. Always whole tiles are multiplied, so that a row's bits do
//      x 5     2      3         not depend on how many rows there are.

#pragma once

#include <sys/syscall.h>
#include <unistd.h>

#include "program.hpp"
#include "space.hpp"
#include "words.hpp"

namespace {

#if defined(__AMX_BF16__)

constexpr bool HAS_TILES = true;

struct alignas(64) TileConfig {
    uint8_t palette = 1;
    uint8_t start = 0;
    uint8_t reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
};

// For products over `tokens` words: a tile of weights (6) is that wide and its values (3, 7) that
// high, two numbers to a word.
constexpr TileConfig make_config(int tokens) {
    TileConfig config;
    for (int i = 0; i < 8; ++i) {
        config.row_bytes[i] = 64;
        config.rows[i] = 16;
    }
    config.row_bytes[6] = uint16_t(2 * tokens);
    config.rows[3] = uint8_t(tokens / 2);
    config.rows[7] = uint8_t(tokens / 2);
    return config;
}

// For products of so many rows over runs of 32 bytes (codes.hpp): half as deep.
constexpr TileConfig make_run_config(int rows) {
    TileConfig config = make_config(32);
    for (int i = 0; i < 6; ++i) config.rows[i] = uint8_t(rows);
    config.row_bytes[4] = config.row_bytes[5] = 32;
    config.rows[6] = config.rows[7] = 8;
    return config;
}

// Constants, not variables on the stack: to GCC the instruction reads eight bytes of them, so it
// might leave out what is written to the rest.
constexpr TileConfig LINEAR_TILES = make_config(32);
constexpr TileConfig RUN_TILES[2] = {make_run_config(8), make_run_config(16)};
constexpr TileConfig ATTENTION_TILES = make_config(PAGE);

inline void use_linear_tiles() { _tile_loadconfig(&LINEAR_TILES); }
inline void use_run_tiles(int64_t rows) { _tile_loadconfig(&RUN_TILES[rows > 8]); }
inline void use_attention_tiles() { _tile_loadconfig(&ATTENTION_TILES); }
inline void release_tiles() { _tile_release(); }

// Whether the kernel grants this process the registers, which it must be asked for once.
inline bool ask_for_tiles() {
    constexpr int ARCH_REQ_XCOMP_PERM = 0x1023;
    constexpr int XFEATURE_XTILEDATA = 18;
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

// Before tiles are loaded from what was just written: GCC is not told that a load reads memory, and
// without this it might write later.
inline void finish_writing() { asm volatile("" ::: "memory"); }

// out = (FRESH ? 0 : in) + x w, of up to 32 rows and 64-byte steps of a panel's weights
// [steps][16][PANEL] words. AHEAD: the weights come from far, so those `ahead` are asked for, which
// the processor's own prefetcher does not reach in time; else they are near and x is asked for.
// The products are macros that take register numbers as they stand, so each is written out.
template <class T, bool FRESH, bool AHEAD>
void multiply_tiles(const char* x, size_t stride, int rows, const int32_t* w, int steps,
                    const char* ahead, const Sum<T> (&in)[BLOCK_ROWS][PANEL],
                    Sum<T> (&out)[BLOCK_ROWS][PANEL]) {
    constexpr bool WHOLE = std::is_same_v<T, Int8>;
    const bool both = rows > 16;
    if constexpr (FRESH) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    } else {
        _tile_loadd(0, in[0], PANEL * 4);
        _tile_loadd(1, in[0] + LANES, PANEL * 4);
        if (both) {
            _tile_loadd(2, in[16], PANEL * 4);
            _tile_loadd(3, in[16] + LANES, PANEL * 4);
        }
    }
    for (int k = 0; k < steps; ++k, w += 16 * PANEL, x += 64) {
        if constexpr (AHEAD) {
            const char* lines = ahead + k * 16 * PANEL * 4;
            for (int i = 0; i < 32; ++i) prefetch(lines + i * LINE);
        } else {
            for (int i = 0; i < 32; ++i) prefetch_near(x + i * stride + 128);
        }
        _tile_loadd(6, w, PANEL * 4);
        _tile_loadd(7, w + LANES, PANEL * 4);
        _tile_loadd(4, x, stride);
        if constexpr (WHOLE) {
            _tile_dpbusd(0, 4, 6);
            _tile_dpbusd(1, 4, 7);
        } else {
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (!both) continue;
        _tile_loadd(5, x + 16 * stride, stride);
        if constexpr (WHOLE) {
            _tile_dpbusd(2, 5, 6);
            _tile_dpbusd(3, 5, 7);
        } else {
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, out[0], PANEL * 4);
    _tile_stored(1, out[0] + LANES, PANEL * 4);
    if (both) {
        _tile_stored(2, out[16], PANEL * 4);
        _tile_stored(3, out[16] + LANES, PANEL * 4);
    }
}

#else

constexpr bool HAS_TILES = false;

inline void use_linear_tiles() {}
inline void use_run_tiles(int64_t) {}
inline void use_attention_tiles() {}
inline void release_tiles() {}
inline bool ask_for_tiles() { return true; }

#endif

}  // namespace

// Runs one step of a decoder on a CPU: a short program of operations over shared buffers, by all
// threads in one parallel region.
// Decides the order of things only: the program, the rows and every address come from
// engine/executor/native.py; what each operation does is in the headers beside this file.
//
//   words      vectors of numbers, and the one product
//   program    what Python describes
//   space      the buffers that a step passes through
//   threads    who waits for whom, who takes what, who sleeps
//   rows       operations on one row alone
//   tiles      tile registers, and the product by them
//   attention  over pages, by vectors or by tiles
//   products   rows by one panel of weights, and what is asked of memory meanwhile
//   codes      weights in 4 bits, and few rows by one panel of them
//   code_tiles many rows by one panel of them
//   adapters   what is added to a linear
//   leaders    the highest logit of each row
//   linear     all panels of one, from the source to where it goes
//   experts    which of them a row passes, and their linears
//   draw       chooses tokens; knows none of these
//
// Each includes only what stands above it.
//
// Every row's result depends on that row alone, bit for bit: sums run in one fixed order whatever
// the number of rows or threads.
//
// Built several times, once per instruction set (library.py); it asks only for what the compiler
// was told the processor has. All of it is one translation unit, so that loops and what they call
// are compiled as one.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

#include "attention.hpp"
#include "draw.hpp"
#include "experts.hpp"
#include "leaders.hpp"
#include "linear.hpp"
#include "program.hpp"
#include "rows.hpp"
#include "space.hpp"
#include "threads.hpp"
#include "tiles.hpp"

namespace {

struct Draws {
    Draw* first;
    int64_t count;
    const float* logits;
    int64_t stride;
};

// What one thread has for itself.
struct Own {
    LinearWork linear;
    Drawer drawer;
};

struct Executor {
    Space space;
    Units units;
    std::vector<Own> own;  // by thread
    Draws draws{};         // count 0: the next job is a step
    Barrier barrier;
    Claims claims;
    Pool pool;  // last: its threads may use all the rest, and end before any of it does

    Executor(const Shape& shape, const Operation* operations, int count)
        : space(shape, operations, count),
          own(shape.threads),
          claims(shape.threads, count),
          pool(shape.threads, run_thread, this) {}

    // A step. 0, or 1 when there is no memory for it.
    int run(const Step& next) {
        space.step = next;
        try {
            reserve();
        } catch (const std::bad_alloc&) {
            return 1;
        }
        run_together();
        copy_final();
        name_leaders();
        return 0;
    }

    // Tokens for some rows of logits. 0, or 1 when there is no memory for it.
    int draw(const Draws& next) {
        try {
            if (next.count == 1) {
                draw_one(next, 0, own[0].drawer);  // sooner done than all are awake
                return 0;
            }
            for (Own& each : own) each.drawer.reserve(space.shape.vocab);
        } catch (const std::bad_alloc&) {
            return 1;
        }
        draws = next;
        run_together();
        draws.count = 0;
        return 0;
    }

  private:
    void reserve() {
        if (space.shape.dtype == 0) space.reserve<float>();
        else space.reserve<Bf16>();
        units.count(space.step, space.shape.kv_heads);
        for (Own& each : own) forget(each.linear.leaders, space.step.num_picked);
    }

    void run_together() {
        claims.reset();
        pool.run();
    }

    static void run_thread(void* owner, int tid) {
        auto* executor = static_cast<Executor*>(owner);
        if (executor->draws.count) executor->draw_all(tid);
        else if (executor->space.shape.dtype == 0) executor->run_program<float>(tid);
        else executor->run_program<Bf16>(tid);
    }

    // --- the program, by one thread ---

    static bool by_rows(const Operation& op) {
        return op.kind != LINEAR && op.kind != ATTEND && op.kind != EXPERTS && op.kind != DEAL;
    }

    template <class T>
    void run_program(int tid) {
        const std::vector<Operation>& program = space.program;
        use_linear_tiles();
        for (size_t i = 0; i < program.size(); ++i) {
            const Operation& op = program[i];
            if (by_rows(op)) {
                run_rows<T>(op, tid);
                // The same thread has the same rows in the next operation, unless that picks others
                // or splits by columns.
                const bool stays = i + 1 < program.size() && by_rows(program[i + 1]);
                if (stays && program[i + 1].kind != PICK) continue;
            } else if (op.kind == ATTEND) {
                use_attention_tiles();
                attend<T>(space, units, claims, op);
                use_linear_tiles();
            } else if (op.kind == EXPERTS) {
                run_experts<T>(space, claims, barrier, op, tid, own[tid].linear);
            } else if (op.kind == DEAL) {
                if (tid == 0) sort_choices(space);
                barrier.wait(space.shape.threads);
                run_rows<T>(op, tid);
            } else {
                run_linear<T>(space, claims, barrier, op, tid, own[tid].linear);
            }
            barrier.wait(space.shape.threads);
        }
        release_tiles();
    }

    template <class T>
    void run_rows(const Operation& op, int tid) {
        const bool picked = op.kind == PICK || op.source == PICKED;
        const int64_t rows = picked ? space.step.num_picked : space.step.rows;
        for (int64_t r = tid; r < rows; r += space.shape.threads) run_row<T>(op, r);
    }

    template <class T>
    void run_row(const Operation& op, int64_t r) {
        switch (op.kind) {
            case EMBED: return embed<T>(space, op, r);
            case NORM: return norm<T>(space, op, r);
            case NORM_HEADS: return norm_heads(space, op, r);
            case ROTATE: return rotate(space, op, r);
            case STORE: return store_kv<T>(space, op, r);
            case CHOOSE: return choose(space, r);
            case DEAL: return deal<T>(space, op, r);
            case GATHER: return gather(space, r);
            default: return pick(space, r);
        }
    }

    // --- what a step gives ---

    void copy_final() const {
        const size_t bytes = space.shape.hidden * space.shape.number_bytes();
        for (int64_t r = 0; r < space.step.num_picked; ++r)
            std::memcpy(space.step.final + r * bytes, space.places[FINAL].row(r), bytes);
    }

    void name_leaders() const {
        for (int64_t r = 0; r < space.step.num_picked; ++r) {
            Leader leader;
            for (const Own& each : own) leader.take(each.linear.leaders[r]);
            space.step.best[r] = leader.id;
            space.step.finite[r] = std::isfinite(leader.sum);
        }
    }

    // --- draws ---

    void draw_one(const Draws& from, int64_t number, Drawer& drawer) const {
        Draw& draw = from.first[number];
        drawer.draw(from.logits + draw.row * from.stride, space.shape.vocab, draw);
    }

    void draw_all(int tid) {
        for (int64_t i; (i = claims.next_draw()) < draws.count;)
            draw_one(draws, i, own[tid].drawer);
        barrier.wait(space.shape.threads);
    }
};

}  // namespace

extern "C" {

// Null when the kernel does not grant this process the tile registers.
void* lorikeet_create(const Shape* shape, const Operation* operations, int count) {
    if (!ask_for_tiles()) return nullptr;
    return new Executor(*shape, operations, count);
}

// 0, or 1 when there is no memory for this many rows.
int lorikeet_run(void* executor, const Step* step) {
    return static_cast<Executor*>(executor)->run(*step);
}

// Fills in each draw's winner and margin. 0, or 1 when there is no memory.
int lorikeet_draw(void* executor, Draw* draws, int64_t count, const float* logits, int64_t stride) {
    return static_cast<Executor*>(executor)->draw({draws, count, logits, stride});
}

void lorikeet_destroy(void* executor) { delete static_cast<Executor*>(executor); }
}

/* optim.c -- see optim.h */
#include "optim.h"

#include <math.h>

double schedule_lr(const Schedule *s, int64_t step)
{
    const double pi = 3.14159265358979323846, low = s->lr * s->final;
    if (step < s->warmup) return s->lr * (double)(step + 1) / (double)s->warmup;
    if (step >= s->steps) return s->kind == SCHEDULE_CONSTANT ? s->lr : low;
    const double done = (double)(step - s->warmup) / (double)(s->steps - s->warmup);
    switch (s->kind) {
    case SCHEDULE_COSINE: return low + 0.5 * (s->lr - low) * (1 + cos(pi * done));
    case SCHEDULE_LINEAR: return s->lr - (s->lr - low) * done;
    case SCHEDULE_WSD: {
        const double decay_steps = s->decay * (double)s->steps, into = (double)step - ((double)s->steps - decay_steps);
        return into <= 0 ? s->lr : s->lr - (s->lr - low) * into / decay_steps;
    }
    case SCHEDULE_CONSTANT: return s->lr;
    }
    return s->lr;
}

/* Standard deviations that x lies above the ring's mean. A ring that hardly varies cannot call a wobble a spike: the
 * deviation counts as at least `least` of the mean. */
static double z_score(const double *ring, int64_t n, double x, double least)
{
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < n; i++) sum += ring[i];
    const double mean = sum / (double)n;
    for (int64_t i = 0; i < n; i++) squares += (ring[i] - mean) * (ring[i] - mean);
    return (x - mean) / fmax(sqrt(squares / (double)n), least * fabs(mean) + 1e-30);
}

Verdict guard_judge(const Guard *g, double loss, double norm, double *z)
{
    *z = 0;
    if (!isfinite(loss)) return GUARD_LOSS_NOT_FINITE;
    if (!isfinite(norm)) return GUARD_NORM_NOT_FINITE;
    if (g->z <= 0 || g->seen < GUARD_LEAST) return GUARD_PASS;
    const int64_t n = g->seen < GUARD_WINDOW ? g->seen : GUARD_WINDOW;
    *z = z_score(g->loss, n, loss, 0.01);
    if (*z > g->z) return GUARD_LOSS_SPIKE;
    *z = z_score(g->norm, n, norm, 0.5);                    /* a healthy run's triples at times, and is clipped */
    return *z > g->z ? GUARD_NORM_SPIKE : GUARD_PASS;
}

const char *guard_reason(Verdict v)
{
    static const char *const reason[] = {
        [GUARD_PASS] = "",
        [GUARD_LOSS_NOT_FINITE] = "the loss is not finite", [GUARD_NORM_NOT_FINITE] = "a gradient is not finite",
        [GUARD_LOSS_SPIKE] = "the loss is a spike",         [GUARD_NORM_SPIKE] = "the gradient norm is a spike"
    };
    return reason[v];
}

void guard_enter(Guard *g, double loss, double norm)
{
    g->loss[g->seen % GUARD_WINDOW] = loss;
    g->norm[g->seen % GUARD_WINDOW] = norm;
    g->seen++;
}

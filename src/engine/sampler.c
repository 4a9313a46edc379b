#include "engine/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

bool sampler_init(struct sampler *s, int n_vocab)
{
	size_t n = (size_t)n_vocab;
	*s = (struct sampler){ malloc(n * sizeof *s->logit), malloc(n * sizeof *s->heap), calloc(n, 1), calloc(n, sizeof *s->count) };
	if (s->logit && s->heap && s->seen && s->count)
		return true;
	sampler_free(s);
	return false;
}

void sampler_free(struct sampler *s)
{
	free(s->logit);
	free(s->heap);
	free(s->seen);
	free(s->count);
	*s = (struct sampler){ 0 };
}

int sampler_check(const struct moxie_sampling *sp, struct moxie_err *err)
{
	const struct {
		const char *name;
		float value, low, high;
	} range[] = {
		{ "temperature", sp->temperature, 0, 100 },
		{ "top_p", sp->top_p, 0, 1 },
		{ "min_p", sp->min_p, 0, 1 },
		{ "repetition_penalty", sp->repetition_penalty, 0, 100 },
		{ "presence_penalty", sp->presence_penalty, -2, 2 },
		{ "frequency_penalty", sp->frequency_penalty, -2, 2 },
	};
	for (size_t i = 0; i < sizeof range / sizeof *range; i++)
		if (!(range[i].value >= range[i].low && range[i].value <= range[i].high)) /* NaN fails too */
			return err_set(err, MOXIE_E_ARG, "%s is %g, wanted %g .. %g", range[i].name, (double)range[i].value, (double)range[i].low,
			               (double)range[i].high);
	if (sp->top_k < 0)
		return err_set(err, MOXIE_E_ARG, "top_k is %d, wanted >= 0", sp->top_k);
	return 0;
}

bool sampler_row(const struct moxie_sampling *sp, uint64_t n, struct sample_row *row)
{
	*row = (struct sample_row){ .seed = sp->seed, .n = n, .temperature = sp->temperature, .top_p = sp->top_p, .min_p = sp->min_p,
		.top_k = sp->top_k, .n_top = -1, .hist = -1, .repetition_penalty = sp->repetition_penalty,
		.presence_penalty = sp->presence_penalty, .frequency_penalty = sp->frequency_penalty };
	return (sp->repetition_penalty <= 0 || sp->repetition_penalty == 1) && sp->presence_penalty == 0 && sp->frequency_penalty == 0;
}

/* Uniform in [0, 1): splitmix64 of seed and position, so a rewound session draws the same again. */
static double uniform(uint64_t seed, uint64_t pos)
{
	uint64_t z = seed * 0x9e3779b97f4a7c15u + (pos + 1) * 0xd1342543de82ef95u;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return (double)((z ^ z >> 31) >> 11) * 0x1p-53;
}

static void penalise(struct sampler *s, const struct moxie_sampling *sp, const int32_t *history, size_t n, size_t n_out)
{
	float rep = sp->repetition_penalty > 0 ? sp->repetition_penalty : 1, *l = s->logit;
	for (size_t i = 0; rep != 1 && i < n; i++) {
		int32_t id = history[i];
		if (!s->seen[id])
			l[id] = l[id] > 0 ? l[id] / rep : l[id] * rep;
		s->seen[id] = 1;
	}
	for (size_t i = n - n_out; i < n; i++)
		if (s->count[history[i]] < UINT16_MAX)
			s->count[history[i]]++;
	for (size_t i = n - n_out; i < n; i++)
		if (s->count[history[i]]) {
			l[history[i]] -= sp->presence_penalty + sp->frequency_penalty * s->count[history[i]];
			s->count[history[i]] = 0;
		}
	for (size_t i = 0; rep != 1 && i < n; i++)
		s->seen[history[i]] = 0;
}

/* a before b: larger logit, then lower id. */
static bool before(const float *l, int32_t a, int32_t b)
{
	return l[a] > l[b] || (l[a] == l[b] && a < b);
}

static void sift_down(const float *l, int32_t *heap, int n, int i)
{
	for (int child; (child = 2 * i + 1) < n; i = child) {
		if (child + 1 < n && before(l, heap[child + 1], heap[child]))
			child++;
		if (before(l, heap[i], heap[child]))
			return;
		int32_t t = heap[i];
		heap[i] = heap[child];
		heap[child] = t;
	}
}

/* Everything that is at least min_p times as likely as the best; two passes over the vocabulary, in id order. */
static int32_t pick_plain(const float *l, int n_vocab, int32_t best, double inv_t, double min_p, double u)
{
	double sum = 0, at = 0;
	for (int pass = 0; pass < 2; pass++)
		for (int i = 0; i < n_vocab; i++) {
			double p = exp((l[i] - (double)l[best]) * inv_t);
			if (p < min_p)
				continue;
			if (pass == 0)
				sum += p;
			else if ((at += p) > u * sum)
				return i;
		}
	return best;
}

/* A heap gives the tokens by falling probability, and only as many as are kept; they gather at the array's end. */
static int32_t pick_sorted(struct sampler *s, const struct moxie_sampling *sp, int n_vocab, int32_t best, double inv_t, double u)
{
	const float *l = s->logit;
	int32_t *heap = s->heap;
	int n = 0, k = sp->top_k > 0 ? sp->top_k : n_vocab, n_kept = 0;
	double top = l[best], sum = 0, mass = 0, top_p = sp->top_p > 0 && sp->top_p < 1 ? sp->top_p : 1;
	for (int i = 0; i < n_vocab; i++)
		if (l[i] > -INFINITY) {
			heap[n++] = i;
			sum += exp((l[i] - top) * inv_t);
		}
	for (int i = n / 2 - 1; i >= 0; i--)
		sift_down(l, heap, n, i);
	double need = sp->top_k > 0 ? INFINITY : top_p * sum; /* with top-k the nucleus is measured over the k, below */
	while (n_kept < n && n_kept < k && mass < need) {
		int32_t id = heap[0];
		heap[0] = heap[n - 1 - n_kept];
		heap[n - 1 - n_kept++] = id;
		sift_down(l, heap, n - n_kept, 0);
		mass += exp((l[id] - top) * inv_t);
	}
	need = sp->top_k > 0 ? top_p * mass : need;
	int n_left = 0;
	for (mass = 0; n_left < n_kept && mass < need; n_left++) {
		double p = exp((l[heap[n - 1 - n_left]] - top) * inv_t);
		if (p < (double)sp->min_p)
			break;
		mass += p;
	}
	double at = 0;
	for (int i = 0; i < n_left; i++)
		if ((at += exp((l[heap[n - 1 - i]] - top) * inv_t)) > u * mass)
			return heap[n - 1 - i];
	return best;
}

static int32_t best_of(const float *l, int n_vocab)
{
	int32_t best = 0;
	for (int i = 1; i < n_vocab; i++)
		if (l[i] > l[best])
			best = i;
	return best;
}

static bool is_allowed(const uint32_t *allow, int32_t id)
{
	return !allow || allow[id / 32] >> id % 32 & 1;
}

/* What the rule leaves out becomes -inf.  Returns the best of the rest, -1: allow has no token. */
static int32_t apply_rule(float *l, int n_vocab, const struct sampler_rule *rule)
{
	for (int i = 0; rule->allow && i < n_vocab; i++)
		l[i] = is_allowed(rule->allow, i) ? l[i] : -INFINITY;
	int32_t best = best_of(l, n_vocab);
	if (rule->n_ban) {
		int32_t first = best;
		float its = l[first];
		for (size_t i = 0; i < rule->n_ban; i++)
			l[rule->ban[i]] = -INFINITY;
		best = best_of(l, n_vocab);
		if (l[best] == -INFINITY) /* only banned ones may come: one of them has to */
			l[best = first] = its;
	}
	if (is_allowed(rule->allow, best))
		return best;
	for (int i = 0; i < n_vocab; i++) /* all that may come are -inf or NaN */
		if (is_allowed(rule->allow, i))
			return i;
	return -1;
}

int32_t sampler_pick(struct sampler *s, const struct moxie_sampling *sp, const float *logits, int n_vocab, const int32_t *history,
                     size_t n, size_t n_out)
{
	static const struct sampler_rule none;
	return sampler_pick_ruled(s, sp, &none, logits, n_vocab, history, n, n_out);
}

int32_t sampler_pick_ruled(struct sampler *s, const struct moxie_sampling *sp, const struct sampler_rule *rule, const float *logits,
                           int n_vocab, const int32_t *history, size_t n, size_t n_out)
{
	float *l = s->logit;
	for (int i = 0; i < n_vocab; i++)
		l[i] = isnan(logits[i]) ? -INFINITY : logits[i];
	for (size_t i = 0; i < rule->n_bias; i++)
		l[rule->bias[i].id] += rule->bias[i].bias;
	penalise(s, sp, history, n, n_out);
	int32_t best = apply_rule(l, n_vocab, rule);
	if (best < 0 || sp->temperature <= 0 || !isfinite(l[best]))
		return best;
	/* Probabilities are taken against the best, unnormalised, in double: a long tail adds up. */
	double inv_t = 1 / (double)sp->temperature, u = uniform(sp->seed, n);
	bool sorted = sp->top_k > 0 || (sp->top_p > 0 && sp->top_p < 1);
	return sorted ? pick_sorted(s, sp, n_vocab, best, inv_t, u) : pick_plain(l, n_vocab, best, inv_t, (double)sp->min_p, u);
}

void sampler_logprobs(const float *logits, int n_vocab, int32_t id, int n_top, struct moxie_logprobs *out)
{
	double sum = 0;
	int n = 0;
	struct moxie_token_prob *top = out->top;
	float best = -INFINITY;
	for (int i = 0; i < n_vocab; i++)
		best = logits[i] > best ? logits[i] : best;
	for (int i = 0; i < n_vocab; i++) {
		float l = logits[i];
		if (isnan(l))
			continue;
		sum += exp((double)l - (double)best);
		if (n == n_top && (n == 0 || l <= top[n - 1].logprob))
			continue;
		int at = n < n_top ? n++ : n - 1; /* into the short sorted list, behind its equals: their ids are lower */
		for (; at > 0 && top[at - 1].logprob < l; at--)
			top[at] = top[at - 1];
		top[at] = (struct moxie_token_prob){ i, l };
	}
	if (!isfinite(best)) { /* no distribution: as the device does, the pick is certain */
		for (int i = 0; i < n; i++)
			top[i].logprob = -INFINITY;
		out->n_top = n;
		out->token = (struct moxie_token_prob){ id, 0 };
		return;
	}
	double off = (double)best + log(sum);
	for (int i = 0; i < n; i++)
		top[i].logprob = (float)((double)top[i].logprob - off);
	out->n_top = n;
	out->token = (struct moxie_token_prob){ id, (float)((double)logits[id] - off) };
}

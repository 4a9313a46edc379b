/* sched.h - what the interface of sched.c and the thread of sched_loop.c share.
 *
 * Locks: moxie_engine.lock guards the queue, the running list, the counters and whatever else another thread reads; the model's lock,
 * taken second, guards the pages.  Sessions, replies and results belong to the engine's thread.  No callback runs under a lock.
 */
#ifndef MOXIE_ENGINE_SCHED_H
#define MOXIE_ENGINE_SCHED_H

#include "engine/engine.h"
#include "engine/prefix.h"
#include "engine/reply.h"

#define RATE_SECONDS 5 /* of the decode rate */

/* One request, in one block with its ids and stop strings. */
struct job {
	struct job *next;            /* in the queue */
	uint64_t id;
	struct moxie_request req;    /* its pointers lead into this block */
	atomic_int cancel;           /* an int, away from the flags below: they are not for other threads */
	bool has_reply;
	bool active;                 /* has been admitted to the KV cache; else it waits in its slot, with none */
	bool resumed;                /* gave its KV cache up once */
	bool over;                   /* status and res.finish are final */
	int status;
	struct moxie_err err;
	struct reply reply;
	struct moxie_generate_result res;
	size_t n_scored;             /* tokens of the prompt up to here want no on_prompt any more */
	size_t n_known;              /* tokens of its timeline, in s->tok.v: the prompt, then what was sampled; s->tok.n are consumed */
	double at_submit, at_start, at_decode;
};

struct slot {
	moxie_session *s;            /* NULL until the first request; idle: without pages */
	struct job *job;             /* NULL: idle */
	int n_row;                   /* in the step being planned */
	int n_before;                /* of them before the last, whose logits are wanted too */
	bool scores;                 /* ... for on_prompt, all of them */
	double retry_at;             /* s == NULL: no memory was found, not to be asked for again before */
};

struct second { /* of the decode rate */
	int64_t at;
	uint64_t n_tok;
	double busy;                 /* seconds that steps took */
};

struct moxie_engine {
	moxie_model *m;
	int n_ctx, n_queued_max;
	bool no_reuse;
	struct prefix prefix;        /* the thread's own; another one may use it under both locks while nothing runs or waits */
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t wake;         /* the thread sleeps here when there is nothing to run */
	bool has_lock, has_wake;

	/* under lock */
	bool stop, flush;
	struct moxie_err failed;     /* code < 0: the device failed, nothing runs any more */
	struct job *first, **last;   /* the queue */
	int n_waiting;
	struct slot **run;           /* [n_seq] busy slots in order of arrival */
	int n_run, n_suspended;      /* of them not active */
	uint64_t last_id;
	struct moxie_engine_stats st;
	struct second rate[RATE_SECONDS];

	/* the thread's own */
	struct slot *slot;           /* [n_seq] */
	struct part *part;           /* [n_seq] the step under way, and whose rows they are */
	struct job **part_job;
	uint64_t blocked_id;         /* of the request that had no room when there was blocked_room and the cache held blocked_node */
	int blocked_room, blocked_node;
};

/* Where j's rows for a prompt end. */
static inline size_t job_zone(const struct moxie_engine *e, const struct job *j)
{
	return prompt_zone(e->m, j->req.n);
}

/* How many of the tokens that j knows it may take from the prefix cache: the last is computed for its logits, and so are those before
 * tokens whose likelihood is asked for. */
static inline size_t job_reusable(const struct job *j)
{
	size_t n = j->active ? j->n_known - 1 : j->req.n - 1;
	return j->req.on_prompt && j->n_scored < j->req.n && j->n_scored - 1 < n ? j->n_scored - 1 : n;
}

void sched_job_fail(struct job *j, int status, const struct moxie_err *err);
/* Takes every queued request that is cancelled, or all of them, out of the queue; tells their owners. */
void sched_reap_queue(struct moxie_engine *e, bool all, const struct moxie_err *failed);
/* Gives out the tokens that were picked and not given yet. */
void sched_give_due(void *e);
/* One step for all that run, if there is anything to do. */
void sched_step(struct moxie_engine *e);

/* Takes the numbers of pages over into e->st.  Caller holds both locks. */
void sched_count_pages(struct moxie_engine *e);

void *sched_thread(void *e); /* until stop is set and every request has ended */

#endif

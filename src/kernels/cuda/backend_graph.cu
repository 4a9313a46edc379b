/* backend_graph.cu - decode steps recorded as CUDA graphs.
 *
 * A step of one shape always has the same launches with the same arguments: its inputs lie at fixed places of the step arena and
 * arrive there by the graph's first kernel.  So a step of a shape is captured once, when the model opens (engine_record_ahead), and is one
 * launch from then on.  What is captured, and how many bytes it may take, the engine says; nothing is while it serves.
 */
#include <stdlib.h>
#include <string.h>

#include "backend.h"

struct cuda_graph {
	struct step_shape shape;
	cudaGraphExec_t exec;
};

static bool same(const struct step_shape *a, const struct step_shape *b)
{
	return a->n_seq == b->n_seq && a->n_page_seq == b->n_page_seq && a->drawn == b->drawn;
}

bool cuda_graph_replay(struct kern *k, const struct step_shape *s)
{
	struct cuda *c = cuda_of(k);
	for (int i = 0; i < c->n_graph; i++)
		if (same(&c->graph[i].shape, s)) {
			struct cuda_graph g = c->graph[i];
			memmove(c->graph + 1, c->graph, (size_t)i * sizeof g);
			c->graph[0] = g;
			cuda_ok(c, cudaGraphLaunch(g.exec, c->dev.stream), "a recorded step");
			return true;
		}
	return false;
}

/* Room for one more. */
static bool graph_room(struct cuda *c)
{
	if (c->n_graph < c->cap_graph)
		return true;
	const int cap = c->cap_graph ? 2 * c->cap_graph : 64;
	struct cuda_graph *g = (struct cuda_graph *)realloc(c->graph, (size_t)cap * sizeof *g);
	if (!g) {
		struct moxie_err err;
		cuda_note(c, err_nomem(&err, (size_t)cap * sizeof *g, "recorded steps"), &err);
		return false;
	}
	c->graph = g;
	c->cap_graph = cap;
	return true;
}

void cuda_graph_record(struct kern *k, const struct step_shape *s)
{
	struct cuda *c = cuda_of(k);
	c->recording = graph_room(c) && cuda_ok(c, cudaStreamBeginCapture(c->dev.stream, cudaStreamCaptureModeThreadLocal), "recording a step");
	c->record_shape = *s;
}

void cuda_graph_keep(struct kern *k, bool ok)
{
	struct cuda *c = cuda_of(k);
	cudaGraph_t graph = NULL;
	cudaGraphExec_t exec = NULL;
	if (!c->recording)
		return;
	c->recording = false;
	ok = cuda_ok(c, cudaStreamEndCapture(c->dev.stream, &graph), "recording a step") && ok &&
	     cuda_ok(c, cudaGraphInstantiate(&exec, graph, 0), "recording a step") &&
	     cuda_ok(c, cudaGraphUpload(exec, c->dev.stream), "a recorded step"); /* its memory is taken now */
	if (graph)
		cudaGraphDestroy(graph);
	if (ok)
		c->graph[c->n_graph++] = { c->record_shape, exec };
	else if (exec)
		cudaGraphExecDestroy(exec);
}

void cuda_graph_free(struct cuda *c)
{
	for (int i = 0; i < c->n_graph; i++)
		cudaGraphExecDestroy(c->graph[i].exec);
	free(c->graph);
}

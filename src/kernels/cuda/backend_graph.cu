/* backend_graph.cu - decode steps recorded as CUDA graphs.
 *
 * A step of one shape always has the same launches with the same arguments: its inputs lie at fixed places of the step arena and
 * arrive there by the graph's first kernel.  So a step of a shape is captured once, ahead of time for the shapes that the engine expects
 * (engine_record_ahead) and else when it is first met, and is one launch from then on.  The least recently used of MAX_GRAPH recordings
 * makes room.
 */
#include <stdlib.h>
#include <string.h>

#include "backend.h"

constexpr int MAX_GRAPH = 256;

struct cuda_graph {
	struct step_shape shape;
	cudaGraphExec_t exec;
};

static bool same(const struct step_shape *a, const struct step_shape *b)
{
	return a->n_seq == b->n_seq && a->n_page_seq == b->n_page_seq && a->drawn == b->drawn;
}

int cuda_graph_init(struct cuda *c, struct moxie_err *err)
{
	c->graph = (struct cuda_graph *)calloc(MAX_GRAPH + 1, sizeof *c->graph);
	return c->graph ? 0 : err_nomem(err, (MAX_GRAPH + 1) * sizeof *c->graph, "recorded steps");
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

void cuda_graph_record(struct kern *k, const struct step_shape *s, bool now)
{
	struct cuda *c = cuda_of(k);
	c->recording = cuda_ok(c, cudaStreamBeginCapture(c->dev.stream, cudaStreamCaptureModeThreadLocal), "recording a step");
	c->record_now = now;
	c->graph[MAX_GRAPH].shape = *s;
}

void cuda_graph_play(struct kern *k, bool ok)
{
	struct cuda *c = cuda_of(k);
	cudaGraph_t graph = NULL;
	cudaGraphExec_t exec = NULL;
	if (!c->recording)
		return;
	c->recording = false;
	ok = cuda_ok(c, cudaStreamEndCapture(c->dev.stream, &graph), "recording a step") && ok &&
	     cuda_ok(c, cudaGraphInstantiate(&exec, graph, 0), "recording a step") &&
	     (c->record_now ? cuda_ok(c, cudaGraphLaunch(exec, c->dev.stream), "a recorded step")
	                    : cuda_ok(c, cudaGraphUpload(exec, c->dev.stream), "a recorded step")); /* its memory is taken now */
	if (graph)
		cudaGraphDestroy(graph);
	if (!ok) {
		if (exec)
			cudaGraphExecDestroy(exec);
		return;
	}
	if (c->n_graph == MAX_GRAPH)
		cudaGraphExecDestroy(c->graph[--c->n_graph].exec);
	struct step_shape shape = c->graph[MAX_GRAPH].shape;
	memmove(c->graph + 1, c->graph, (size_t)c->n_graph * sizeof *c->graph);
	c->graph[0] = { shape, exec };
	c->n_graph++;
}

void cuda_graph_free(struct cuda *c)
{
	for (int i = 0; i < c->n_graph; i++)
		cudaGraphExecDestroy(c->graph[i].exec);
	free(c->graph);
}

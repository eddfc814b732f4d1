/* A checkpoint's rows as bytes, see store.h: made by checkpoint.c, read by
 * store.c. */
#include <stdlib.h>
#include <string.h>

#include "worker/sizes.h"
#include "worker/store.h"

static void
add_item(struct buf *b, uint32_t number, struct slice first,
    struct slice second)
{
	struct store_item i = { number, (uint32_t)first.len,
	    (uint32_t)second.len };

	buf_add(b, &i, sizeof(i));
	buf_add(b, first.data, first.len);
	buf_add(b, second.data, second.len);
}

/*
 * Memory of less than 32 MiB may be a part of glibc's heap, so that to make it
 * larger is to copy it: an event would wait 10 ms when 16 MiB of rows become
 * more.  More than that is mapped for itself, and grows by being mapped
 * elsewhere.  What is not used of it does not exist.
 */
void
store_job_row(struct store_job *j, size_t step, struct slice key,
    struct slice value)
{
	if (j->rows.cap > ROWS_FEW && j->rows.cap < ROWS_MANY)
		(void)buf_reserve(&j->rows, ROWS_MANY - j->rows.len);
	add_item(&j->rows, (uint32_t)step, key, value);
	j->nrows++;
}

void
store_job_box(struct store_job *j, uint32_t box, struct slice head,
    struct slice body)
{
	add_item(&j->boxes, box, head, body);
}

bool
store_item_next(const uint8_t **p, const uint8_t *end, struct store_item *i,
    struct slice *first, struct slice *second)
{
	if ((size_t)(end - *p) < sizeof(*i))
		return (false);
	memcpy(i, *p, sizeof(*i));
	if ((size_t)(end - *p) - sizeof(*i) < (size_t)i->first + i->second)
		return (false);
	*first = slice_of(*p + sizeof(*i), i->first);
	*second = slice_of(first->data + i->first, i->second);
	*p = second->data + i->second;
	return (true);
}

void
store_job_free(struct store_job *j)
{
	if (j == NULL)
		return;
	buf_fini(&j->automaton);
	buf_fini(&j->rows);
	buf_fini(&j->boxes);
	free(j);
}

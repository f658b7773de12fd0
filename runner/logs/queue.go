package logs

import "sync"

// queue holds lines between a container and a log that is slower. What has no room is dropped.
type queue struct {
	most  int64 // bytes
	write func(Entry)

	mu     sync.Mutex
	some   *sync.Cond
	lines  []Entry
	size   int64
	busy   bool // a line is being written
	closed bool
}

func newQueue(most int64, write func(Entry)) *queue {
	q := &queue{most: most, write: write}
	q.some = sync.NewCond(&q.mu)
	go q.run()
	return q
}

func (q *queue) run() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		for len(q.lines) == 0 && !q.closed {
			q.some.Wait()
		}
		if len(q.lines) == 0 {
			return
		}
		e := q.lines[0]
		q.lines, q.size, q.busy = q.lines[1:], q.size-int64(len(e.Log)), true
		q.mu.Unlock()
		q.write(e)
		q.mu.Lock()
		q.busy = false
		q.some.Broadcast()
	}
}

func (q *queue) add(e Entry) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || q.size+int64(len(e.Log)) > q.most && len(q.lines) > 0 {
		return
	}
	q.lines, q.size = append(q.lines, e), q.size+int64(len(e.Log))
	q.some.Broadcast()
}

// drain returns when all is written that was there.
func (q *queue) drain() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.lines) > 0 || q.busy {
		q.some.Wait()
	}
}

// close is drain, after which lines are dropped.
func (q *queue) close() {
	q.drain()
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.some.Broadcast()
}

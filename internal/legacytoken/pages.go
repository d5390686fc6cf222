package legacytoken

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// pages reads a list page by page, one page ahead.
//
// The API server keeps the state that a list began with for five minutes. After that, the list continues with the
// current state (the continue token in the answer 410, see "Resource Versions" in the API concepts). This suits a walk
// as well: each object is read at some time after the walk began.
type pages[T any] struct {
	// what names the objects in errors.
	what  string
	list  func(context.Context, metav1.ListOptions) ([]T, string, error)
	limit int64

	next  string // continue token of the page after the last one returned
	begun bool
	ahead chan page[T]
}

type page[T any] struct {
	items []T
	next  string
	err   error
}

// end reports whether there is no further page.
func (p *pages[T]) end() bool { return p.begun && p.next == "" }

// read returns the next page. After an error it reads the same page again.
func (p *pages[T]) read(ctx context.Context) ([]T, error) {
	for {
		p.fetch(ctx)
		got := <-p.ahead
		p.ahead = nil
		switch {
		case got.err == nil:
			p.next, p.begun = got.next, true
			if !p.end() {
				p.fetch(ctx)
			}
			return got.items, nil
		case ctx.Err() == nil && errors.Is(got.err, context.Canceled):
			// It was read ahead for a pass that has ended.
		case p.next != "" && apierrors.IsResourceExpired(got.err):
			if p.next = continueOf(got.err); p.next == "" {
				p.begun = false
				return nil, errRestart
			}
		default:
			return nil, fmt.Errorf("listing %s: %w", p.what, got.err)
		}
	}
}

// errRestart means that the list must start again.
var errRestart = errors.New("the list has expired")

// continueOf returns the continue token of an answer 410.
func continueOf(err error) string {
	if status := apierrors.APIStatus(nil); errors.As(err, &status) {
		return status.Status().Continue
	}
	return ""
}

// fetch starts reading the next page, unless that is under way.
func (p *pages[T]) fetch(ctx context.Context) {
	if p.ahead != nil {
		return
	}
	p.ahead = make(chan page[T], 1)
	go func(ahead chan<- page[T], options metav1.ListOptions) {
		var got page[T]
		got.items, got.next, got.err = p.list(ctx, options)
		ahead <- got
	}(p.ahead, metav1.ListOptions{Limit: p.limit, Continue: p.next})
}

// settle waits until nothing is being read ahead. What was read stays for the next read.
func (p *pages[T]) settle() {
	if p.ahead != nil {
		p.ahead <- <-p.ahead
	}
}

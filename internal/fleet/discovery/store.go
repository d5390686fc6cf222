package discovery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"regexp"
	"time"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"
	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"
	"google.golang.org/api/googleapi"

	"github.com/keyturn/keyturn/jwks"
)

// callTimeout bounds each call to a store, together with its retries.
const callTimeout = 10 * time.Second

// store is the bucket behind a URL.
type store struct {
	url     *url.URL
	timeout time.Duration
	bucket  *blob.Bucket // nil until the first call
}

func newStore(u *url.URL) *store { return &store{url: u, timeout: callTimeout} }

// open returns the bucket, and the context of one call to it.
func (s *store) open(ctx context.Context) (*blob.Bucket, context.Context, context.CancelFunc, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, nil, err // a directory would not ask
	}
	if s.bucket == nil {
		bucket, err := openBucket(ctx, s.url)
		if err != nil {
			return nil, nil, nil, fmt.Errorf("opening it: %w", clean(err))
		}
		s.bucket = bucket
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	return s.bucket, ctx, cancel, nil
}

// get reads an object; one that is not there is no error.
func (s *store) get(ctx context.Context, name string) (object, error) {
	bucket, ctx, cancel, err := s.open(ctx)
	if errors.Is(err, fs.ErrNotExist) && s.makesDirectory() {
		return object{}, nil
	}
	if err != nil {
		return object{}, err
	}
	defer cancel()
	o, err := read(ctx, bucket, name)
	if absent(err) {
		return object{}, nil
	}
	if err != nil {
		return object{}, fmt.Errorf("reading %s: %w", name, clean(err))
	}
	return o, nil
}

func read(ctx context.Context, bucket *blob.Bucket, name string) (object, error) {
	r, err := bucket.NewReader(ctx, name, nil)
	if err != nil {
		return object{}, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, jwks.MaxSize+1)) // one byte more is too long for package jwks
	if err != nil {
		return object{}, err
	}
	attributes, err := bucket.Attributes(ctx, name)
	if err != nil {
		return object{}, err
	}
	return object{
		found: true, modified: r.ModTime(), data: data,
		contentType: attributes.ContentType, cacheControl: attributes.CacheControl,
	}, nil
}

// put replaces an object.
func (s *store) put(ctx context.Context, d document) error {
	if err := s.prepare(d.name); err != nil {
		return fmt.Errorf("writing %s: %w", d.name, err)
	}
	bucket, ctx, cancel, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	write := upload
	if s.url.Scheme == "file" {
		write = writeFile
	}
	if err := write(ctx, bucket, d); err != nil {
		return fmt.Errorf("writing %s: %w", d.name, clean(err))
	}
	return nil
}

// upload does not use a blob.Writer: that of azureblob v0.47 panics when a write fails.
func upload(ctx context.Context, bucket *blob.Bucket, d document) error {
	return bucket.Upload(ctx, d.name, bytes.NewReader(d.data),
		&blob.WriterOptions{ContentType: d.contentType, CacheControl: d.cacheControl})
}

// delete deletes an object; one that is not there is no error.
func (s *store) delete(ctx context.Context, name string) error {
	bucket, ctx, cancel, err := s.open(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer cancel()
	if err := bucket.Delete(ctx, name); err != nil && !absent(err) {
		return fmt.Errorf("deleting %s: %w", name, clean(err))
	}
	return s.sweep(name)
}

// difference says what is wrong with an object; empty when it is as wanted.
func (s *store) difference(want document, is object) string {
	if !is.found {
		return "is missing"
	}
	if difference := want.sameAs(is.data); difference != "" {
		return difference
	}
	switch {
	case s.url.Scheme == "file": // which keeps no headers
	case is.contentType != want.contentType:
		return "does not have Content-Type " + want.contentType
	case is.cacheControl == "" && s.url.Query().Has("endpoint"): // S3 keeps it; not everything that is like S3 does
	case is.cacheControl != want.cacheControl:
		return "does not have Cache-Control " + want.cacheControl
	}
	return ""
}

// absent says that an object is not there. Only a plain answer to that effect counts: gocloud.dev gives the same code to
// a bucket of Google that may not be read, to one of Amazon that is not there, and to an object that is archived.
func absent(err error) bool {
	if err == nil || gcerrors.Code(err) != gcerrors.NotFound {
		return false
	}
	if refusal, ok := errors.AsType[*googleapi.Error](err); ok {
		return refusal.Code == http.StatusNotFound
	}
	if failure, ok := errors.AsType[smithy.APIError](err); ok && failure.ErrorCode() == "NoSuchBucket" {
		return false
	}
	if answer, ok := errors.AsType[*awshttp.ResponseError](err); ok {
		return answer.HTTPStatusCode() == http.StatusNotFound
	}
	return true
}

// parametersPattern finds the parameters of URLs. Those of a request to Azure may be a token (AZURE_STORAGE_SAS_TOKEN).
var parametersPattern = regexp.MustCompile(`\?[^\s"']+`)

// cleanError is the error of a library, without the parameters of URLs.
type cleanError struct{ err error }

func clean(err error) error { return &cleanError{err} }

func (e *cleanError) Error() string { return parametersPattern.ReplaceAllString(e.err.Error(), "") }

func (e *cleanError) Unwrap() error { return e.err }

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

	"github.com/keyturn/keyturn/internal/printable"
	"github.com/keyturn/keyturn/jwks"
)

// callTimeout limits each call to a store, including retries.
const callTimeout = 10 * time.Second

// store keeps the objects of one URL. Each object is replaced atomically.
type store interface {
	// get reads an object; one that does not exist is no error.
	get(ctx context.Context, name string) (object, error)
	// put replaces the object that was read before. It fails if the object has changed, was deleted or, if there was
	// none, was created meanwhile.
	put(ctx context.Context, d document, was object) error
	// delete deletes an object; one that does not exist is no error.
	delete(ctx context.Context, name string) error
}

func newStore(u *url.URL) store {
	if u.Scheme == "file" {
		return newDirectory(u)
	}
	return &cloud{url: u, timeout: callTimeout}
}

// cloud is a bucket of some cloud.
type cloud struct {
	url     *url.URL
	timeout time.Duration
	bucket  *blob.Bucket // nil until the first call
}

// open returns the bucket, and the context of one call to it.
func (s *cloud) open(ctx context.Context) (*blob.Bucket, context.Context, context.CancelFunc, error) {
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

// get implements store.
func (s *cloud) get(ctx context.Context, name string) (object, error) {
	bucket, ctx, cancel, err := s.open(ctx)
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

// read reads the attributes before the data: if the object is replaced in between, the version is the older one, and
// put fails. The data is requested in any case, since the answer to a request for attributes does not distinguish a
// missing bucket from a missing object.
func read(ctx context.Context, bucket *blob.Bucket, name string) (object, error) {
	attributes, attributesErr := bucket.Attributes(ctx, name)
	r, err := bucket.NewReader(ctx, name, nil)
	if err != nil {
		return object{}, err
	}
	defer r.Close()
	if attributesErr != nil {
		return object{}, attributesErr
	}
	data, err := io.ReadAll(io.LimitReader(r, jwks.MaxSize+1)) // one byte more is too long for package jwks
	if err != nil {
		return object{}, err
	}
	return object{
		found: true, modified: r.ModTime(), data: data, version: versionOf(attributes),
		contentType: attributes.ContentType, cacheControl: attributes.CacheControl,
	}, nil
}

// put implements store. It does not use a blob.Writer, since that of azureblob v0.47 panics when a write fails.
func (s *cloud) put(ctx context.Context, d document, was object) error {
	bucket, ctx, cancel, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	o := &blob.WriterOptions{
		ContentType: d.contentType, CacheControl: d.cacheControl, IfNotExist: !was.found, BeforeWrite: was.unchanged,
	}
	if err := bucket.Upload(ctx, d.name, bytes.NewReader(d.data), o); err != nil {
		return fmt.Errorf("writing %s: %w", d.name, clean(err))
	}
	return nil
}

// delete implements store.
func (s *cloud) delete(ctx context.Context, name string) error {
	bucket, ctx, cancel, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	if err := bucket.Delete(ctx, name); err != nil && !absent(err) {
		return fmt.Errorf("deleting %s: %w", name, clean(err))
	}
	return nil
}

// absent reports whether an error means that an object does not exist. Only a specific answer counts: gocloud.dev gives
// the same code to a bucket of Google that may not be read, to a missing bucket of Amazon, and to an archived object.
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

// isGone reports whether the bucket or directory itself does not exist.
func isGone(err error) bool {
	failure, ok := errors.AsType[smithy.APIError](err)
	return errors.Is(err, fs.ErrNotExist) || ok && failure.ErrorCode() == "NoSuchBucket"
}

// parametersPattern finds the parameters of URLs. Those of a request to Azure may be a token (AZURE_STORAGE_SAS_TOKEN).
var parametersPattern = regexp.MustCompile(`\?[^\s"']+`)

// cleanError is the error of a library, as one line without the parameters of URLs. Servers control part of its text.
type cleanError struct{ err error }

func clean(err error) error { return &cleanError{err} }

func (e *cleanError) Error() string {
	return printable.Line(parametersPattern.ReplaceAllString(printable.Cut(e.err.Error(), maxError), ""))
}

func (e *cleanError) Unwrap() error { return e.err }

// maxError is how many characters of an error are searched for parameters.
const maxError = 64 << 10

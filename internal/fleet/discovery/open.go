package discovery

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"

	"gocloud.dev/blob"
	"gocloud.dev/blob/azureblob"
	"gocloud.dev/blob/gcsblob"
	"gocloud.dev/blob/s3blob"
	"gocloud.dev/gcp"
	"golang.org/x/oauth2"
)

// opener is a function that opens the bucket of a URL.
type opener func(context.Context, *url.URL) (*blob.Bucket, error)

// OpenBucketURL implements blob.BucketURLOpener.
func (o opener) OpenBucketURL(ctx context.Context, u *url.URL) (*blob.Bucket, error) {
	return o(ctx, u)
}

// openBucket opens the bucket of a URL. The bucket may keep the context, to fetch credentials later, so the context
// must not end with the call.
func openBucket(ctx context.Context, u *url.URL) (*blob.Bucket, error) {
	mux := new(blob.URLMux)
	mux.RegisterBucket(s3blob.Scheme, new(s3blob.URLOpener))
	mux.RegisterBucket(gcsblob.Scheme, opener(openGoogle))
	// The opener of azureblob sends a token for one account (AZURE_STORAGE_SAS_TOKEN) to no other account.
	mux.RegisterBucket(azureblob.Scheme, opener(blob.DefaultURLMux().OpenBucketURL))
	return mux.OpenBucketURL(context.WithoutCancel(ctx), u)
}

// openGoogle searches for credentials each time. The opener of gcsblob would cache permanently that there were none,
// and print that to standard output.
func openGoogle(ctx context.Context, u *url.URL) (*blob.Bucket, error) {
	if os.Getenv("STORAGE_EMULATOR_HOST") != "" { // gcsblob reaches an emulator on its own
		return gcsblob.OpenBucket(ctx, gcp.NewAnonymousHTTPClient(gcp.DefaultTransport()), u.Host, nil)
	}
	ctx = context.WithValue(ctx, oauth2.HTTPClient, &http.Client{Timeout: callTimeout})
	credentials, err := gcp.DefaultCredentials(ctx)
	if err != nil {
		return nil, fmt.Errorf("finding credentials: %w", err)
	}
	client, err := gcp.NewHTTPClient(gcp.DefaultTransport(), credentials.TokenSource)
	if err != nil {
		return nil, err
	}
	return gcsblob.OpenBucket(ctx, client, u.Host, nil)
}

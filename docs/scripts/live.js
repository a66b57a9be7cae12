// The page with models, inside another page: as high as it says it is, so that nothing is cut off.
addEventListener("message", ({ source, data }) => {
  const frame = [...document.querySelectorAll("iframe.live")].find((each) => each.contentWindow === source);
  if (frame && Number.isFinite(data?.height)) frame.style.height = `${data.height + 2}px`; // 2: its borders
});
